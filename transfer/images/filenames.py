"""File names: names from archives made valid and unique on any file system."""

import itertools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

_MAX_STEM_BYTES = 200  # file systems allow 255 for the complete name
_MAX_SUFFIX_LENGTH = 8


def safe(names: Iterable[str]) -> dict[str, str]:
    """Map each name to a valid file name, unique without regard to case.

    Separators, control characters and wildcards are replaced; letters, marks and digits of any script stay. Valid
    names and all suffixes stay as they are. Names that would be equal without regard to case are numbered, in order.
    """
    used: set[str] = set()
    safe_names: dict[str, str] = {}
    for name in names:
        replaced = re.sub(r"[^\w.+() -]", _unless_mark, unicodedata.normalize("NFC", name)).strip(" .-") or "_"
        unique = next(candidate for candidate in _numbered(replaced) if candidate.casefold() not in used)
        safe_names[name] = unique
        used.add(unique.casefold())
    return safe_names


def _unless_mark(character: re.Match[str]) -> str:
    """Return `_`, except for a combining mark: it is part of a letter in Thai or Hindi, but no word character here."""
    return character[0] if unicodedata.category(character[0]).startswith("M") else "_"


def _numbered(name: str) -> Iterable[str]:
    """Yield the name, shortened if needed, then with the numbers from 2 on: `a.jpg`, `a-2.jpg`, `a-3.jpg`, ..."""
    suffix = PurePosixPath(name).suffix
    ending = suffix if len(suffix) <= _MAX_SUFFIX_LENGTH else ""
    stem = name.removesuffix(ending).encode()[:_MAX_STEM_BYTES].decode(errors="ignore")
    return itertools.chain([f"{stem}{ending}"], (f"{stem}-{number}{ending}" for number in itertools.count(2)))
