"""Archives of photographs: checked before they are trusted, and read in the three layouts they come in."""

import lzma
import re
import stat
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transfer import disk
from transfer.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
LAYOUTS = (
    "folders named for the classes (`cat/1.jpg`, `dog/1.jpg`), one folder with Kaggle's names (`train/cat.1.jpg`), "
    "or Microsoft's folders (`PetImages/Cat/1.jpg`)"
)

MAX_MEMBERS = 1_000_000
MAX_EXPANSION = 100  # times the archive's own size; photographs hardly compress, bombs do by thousands
MAX_PHOTOGRAPH = 256 << 20  # bytes; photographs are read whole

_CHUNK = 1 << 20
_ENCRYPTED = 0x1
_CLASS_NAME = re.compile(r"\w[\w -]*")
_KAGGLE_STEM = re.compile(r"(?P<class_name>[^.]+)\.\d+")
_UNLABELLED = {"test", "test1"}
_MICROSOFT_ROOT = "PetImages"


class Candidate(NamedTuple):
    """A photograph in an archive: its class, a file name unique across classes, and the archive's own name for it."""

    class_name: str
    name: str
    member: str


def is_photograph(path: PurePosixPath) -> bool:
    """Whether a path is one of a photograph: by its ending, and in nothing hidden or left behind by macOS."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def check(path: Path, *, name: str | None = None) -> None:
    """Read an archive through and refuse it unless it is whole and harmless.

    Args:
        path: the archive.
        name: how the user knows it, where that is not the file's own name.

    Raises:
        DataError: the file is no zip archive, is encrypted or damaged, unpacks to far more than its own size,
            or holds links or paths that lead out of it.
        OSError: the disk refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(archive, path.stat().st_size)
            for member in archive.infolist():
                _refuse_hostile(member)
                deque(_chunks(archive, member), maxlen=0)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{name or path.name} must be a whole zip archive. Received: {path.stat().st_size:,} bytes, {error}. "
            "Fetch or pack it again."
        ) from None


def candidates(archive: zipfile.ZipFile) -> list[Candidate]:
    """Find the photographs of an archive and their classes, in a fixed order.

    Documents, hidden files, `Thumbs.db`, `__MACOSX` and Kaggle's unlabelled test photographs are left out.

    Args:
        archive: photographs in class folders, in Kaggle's layout or in Microsoft's (class names in lower case).

    Raises:
        DataError: the layout is unknown, there are fewer than two classes, a class's name cannot be used or differs
            from another in case alone, or a member leads out of the archive.
    """
    for member in archive.infolist():
        _refuse_hostile(member)
        _refuse_giant(member)
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    paths = [PurePosixPath(name) for name in names]
    photographs = [path for path in paths if is_photograph(path)]
    if not photographs:
        raise DataError(f"Photographs must come in {LAYOUTS}. Received: {_endings(paths)}.")
    found = _kaggle(photographs) or _folders(photographs)
    _refuse_class_names(found)
    _refuse_repeats(found)
    _refuse_too_few_classes(found)
    as_packed = dict(zip(map(str, paths), names, strict=True))  # `./cat/1.jpg` is read as `cat/1.jpg`
    return sorted(one._replace(member=as_packed[one.member]) for one in found)


def photographs(archive: zipfile.ZipFile, *, size: int) -> list[zipfile.ZipInfo]:
    """Find the photographs of an archive, whatever its layout, in a fixed order; `read` reads them one by one.

    Args:
        archive: any.
        size: its own, in bytes.

    Raises:
        DataError: it unpacks to far more than its own size, or holds links or paths that lead out of it.
    """
    _refuse_bombs(archive, size)
    for member in archive.infolist():
        _refuse_hostile(member)
    found = [one for one in archive.infolist() if not one.is_dir() and is_photograph(PurePosixPath(one.filename))]
    return sorted(found, key=lambda member: member.filename)


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a photograph of an archive.

    Raises:
        DataError: it is damaged, encrypted, or larger than `MAX_PHOTOGRAPH`.
    """
    _refuse_giant(member)
    try:
        return b"".join(_chunks(archive, member))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"damaged in its archive ({error})") from None


def _kaggle(photographs: list[PurePosixPath]) -> list[Candidate]:
    labelled = [path for path in photographs if path.parent.name not in _UNLABELLED]
    if len({path.parent for path in labelled}) != 1:
        return []
    matches = [(path, _KAGGLE_STEM.fullmatch(path.stem)) for path in labelled]
    found = [Candidate(match["class_name"], path.name, str(path)) for path, match in matches if match]
    return found if len(found) == len(labelled) else []


def _folders(photographs: list[PurePosixPath]) -> list[Candidate]:
    roots = {path.parent.parent for path in photographs}
    misplaced = next((path for path in photographs if len(path.parts) not in (2, 3)), None)
    if misplaced is None and len(roots) > 1:
        misplaced = min(photographs, key=lambda path: (len(path.parts), path))
    if misplaced is not None:
        raise DataError(f"Photographs must come in {LAYOUTS}. Received, among others: `{misplaced}`.")
    lowered = roots == {PurePosixPath(_MICROSOFT_ROOT)}
    return [_in_folder(path, lowered=lowered) for path in photographs]


def _in_folder(path: PurePosixPath, *, lowered: bool) -> Candidate:
    class_name = path.parent.name.lower() if lowered else path.parent.name
    return Candidate(class_name, f"{class_name}.{path.name}", str(path))


def _refuse_class_names(found: Iterable[Candidate]) -> None:
    by_case: dict[str, str] = {}
    for name in sorted({candidate.class_name for candidate in found}):
        if not _CLASS_NAME.fullmatch(name):
            raise DataError(
                f"A class's name must be of letters, digits, spaces, `_` and `-`. Received: {name!r}. "
                "Rename its folder, or its photographs where their names tell the class."
            )
        other = by_case.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"Classes' names must differ in more than case. Received: `{other}` and `{name}`. "
                "Write both alike if they are one class; rename one of them if they are two."
            )


def _refuse_repeats(found: Iterable[Candidate]) -> None:
    name, count = Counter(candidate.name for candidate in found).most_common(1)[0]
    if count > 1:
        raise DataError(f"Each photograph must be in the archive once. Received: `{name}` {count} times.")


def _refuse_too_few_classes(found: Iterable[Candidate]) -> None:
    names = sorted({candidate.class_name for candidate in found})
    if len(names) < 2:
        raise DataError(f"There must be two classes or more, in {LAYOUTS}. Received: only `{names[0]}`.")


def _endings(paths: Iterable[PurePosixPath]) -> str:
    counts = Counter(path.suffix.lower() or "no ending" for path in paths)
    return ", ".join(f"{count} of {ending}" for ending, count in counts.most_common(5)) or "no files at all"


def _refuse_hostile(member: zipfile.ZipInfo) -> None:
    name = member.filename
    leads_out = name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:[/\\]", name)
    unprintable = "\\" in name or any(ord(character) < 32 for character in name)
    if leads_out or unprintable or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            f"An archive's members must be plain files below it. Received: {name!r}. Pack the photographs again."
        )


def _refuse_giant(member: zipfile.ZipInfo) -> None:
    if member.file_size > MAX_PHOTOGRAPH and is_photograph(PurePosixPath(member.filename)):
        raise DataError(
            f"A photograph must have at most {MAX_PHOTOGRAPH:,} bytes. "
            f"Received: {member.filename!r} with {member.file_size:,}. Take it out of the archive."
        )


def _refuse_bombs(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_EXPANSION * size:
        raise DataError(
            f"An archive must hold at most {MAX_MEMBERS:,} files and unpack to at most {MAX_EXPANSION} times its size. "
            f"Received: {len(members):,} files, {size:,} bytes that unpack to {total:,}."
        )


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """A member from its beginning to its end; zipfile compares its checksum there and reads no more than announced."""
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"An archive must not be encrypted. Received: {member.filename!r} with a password.")
    try:
        with archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        disk.reraise(error, archive.filename)
        raise zipfile.BadZipFile(f"{member.filename}: {error}") from None
