"""Class names: which names a class may have, and which two names are one."""

import re
import unicodedata
import zipfile
from collections.abc import Iterable

from transfer.runtime.errors import DataError

_UTF_8 = 0x800  # the flag of a member whose name is UTF-8
_ALLOWED = "_- "
# letters of other alphabets that look like Latin ones
_CYRILLIC, _AS_LATIN = (
    "\u0430\u0441\u0501\u0435\u04bb\u0456\u0458\u04cf\u043e\u0440\u051b\u0455\u051d\u0445\u0443\u0475",
    "acdehijlopqswxyv",
)
_GREEK, _AS_LATIN_TOO = "\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7", "aikvopux"
_PHONETIC, _AS_LATIN_AGAIN = "\u0251\u0261", "ag"
# letters whose capitals look like Latin ones, in lower case
_CYRILLIC_CAPITALS, _AS_CAPITALS = (
    "\u0430\u0432\u0441\u0435\u043d\u0456\u0458\u043a\u043c\u043e\u0440\u0455\u0442\u0445\u0443",
    "abcehijkmopstxy",
)
_GREEK_CAPITALS, _AS_CAPITALS_TOO = (
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7",
    "abezhikmnoptyx",
)
_LATIN = str.maketrans(_CYRILLIC + _GREEK + _PHONETIC, _AS_LATIN + _AS_LATIN_TOO + _AS_LATIN_AGAIN)
_LATIN_CAPITALS = str.maketrans(_CYRILLIC_CAPITALS + _GREEK_CAPITALS, _AS_CAPITALS + _AS_CAPITALS_TOO)
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def normalize(name: str) -> str:
    """Return a name in Unicode's composed form; macOS writes letters with accents in two characters."""
    return unicodedata.normalize("NFC", name)


def check(names: Iterable[str]) -> None:
    """Check that each class name is valid, and differs from the others in what a reader sees.

    Raises:
        DataError: a name has other characters than letters, marks, digits (Unicode's L, M and N), spaces, `_` and `-`,
            or ones that are not visible, or begins with a space or `-`; or two names differ only in case, in the number
            of spaces, or in letters that look the same.
    """
    by_look: dict[tuple[str, str], str] = {}
    for name in sorted(set(names)):
        if not _is_valid(name):
            raise DataError(
                f"A class name must have letters, digits, spaces, `_` and `-` only. Received: {name!a}. "
                "Rename its folder, or its photographs if their names have the class."
            )
        others = {by_look.setdefault(look, name) for look in _looks(name)} - {name}
        for other in others:
            raise DataError(
                "Class names must differ in more than case, spaces, and letters of other alphabets that "
                f"look the same. Received: {_quote(other)} and {_quote(name)}. "
                "Use one spelling if they are one class; rename one of them if they are two."
            )


def check_encoding(archive: zipfile.ZipFile, class_names: Iterable[tuple[str, str]]) -> None:
    """Check that the archive tells the encoding of its class names: ASCII, or UTF-8 with or without the flag for it.

    Args:
        archive: from `archives.open_archive`.
        class_names: each class name with the member that it was read from.

    Raises:
        DataError: a class name has other characters in an encoding that is not known.
    """
    if getattr(archive, "metadata_encoding", None):
        return  # all names are UTF-8
    for name, member in class_names:
        if not name.isascii() and not archive.getinfo(member).flag_bits & _UTF_8:
            raise DataError(
                f"An archive must tell the encoding of its class names. Received: {member!r}, not marked as UTF-8. "
                "Pack the photographs again as UTF-8 (macOS, Linux, or 7-Zip with `cu=on`), put the folders into the "
                "inbox without an archive, or give them names in ASCII."
            )


def _quote(name: str) -> str:
    """Return a name in quotes, and again with escapes if it has letters that could look like others."""
    return f"`{name}`" if name.isascii() else f"`{name}` ({name!a})"


def _is_valid(name: str) -> bool:
    return (
        name[:1] not in {"", " ", "-"}
        and not _INVISIBLE.search(name)
        and all(character in _ALLOWED or unicodedata.category(character)[0] in "LMN" for character in name)
    )


def _looks(name: str) -> list[tuple[str, str]]:
    """Return how a name looks in small letters and in capitals, the same for names that look the same."""
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return [("small", plain.translate(_LATIN)), ("capital", plain.translate(_LATIN_CAPITALS))]
