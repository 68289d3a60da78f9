"""File names: names from elsewhere made fit for any file system."""

import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

_MOST_BYTES = 200  # of a stem; file systems take 255 for the whole name
_LONGEST_ENDING = 8


def safe(names: Iterable[str]) -> dict[str, str]:
    """Give each name one without separators or control characters that differs from the others in more than case.

    Names that are safe stay as they are, and so does each ending. What differs in case alone is numbered, in order.
    """
    used: set[str] = set()
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.+() -]", "_", unicodedata.normalize("NFC", name)).strip(" .-") or "_"
        found[name] = next(each for each in _numbered(plain) if each.casefold() not in used)
        used.add(found[name].casefold())
    return found


def _numbered(name: str) -> Iterable[str]:
    suffix = PurePosixPath(name).suffix
    ending = suffix if len(suffix) <= _LONGEST_ENDING else ""
    stem = name.removesuffix(ending).encode()[:_MOST_BYTES].decode(errors="ignore")
    return itertools.chain([f"{stem}{ending}"], (f"{stem}-{number}{ending}" for number in itertools.count(2)))
