"""Layouts: the three layouts of an archive that give each photograph its class."""

import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from transfer.runtime.errors import DataError
from transfer.sources.archives import check_member, is_photograph

LAYOUTS = (
    "one folder per class (`cat/1.jpg`, `dog/1.jpg`), one folder with Kaggle's file names (`train/cat.1.jpg`, also in "
    "a `train.zip`), or Microsoft's folders (`PetImages/Cat/1.jpg`)"
)

_CLASS_NAME = re.compile(r"\w[\w -]*")
_KAGGLE_STEM = re.compile(r"(?P<class_name>[^.]+)\.\d+")
_UNLABELLED = {"test", "test1"}
_MICROSOFT_ROOT = "PetImages"


class Candidate(NamedTuple):
    """A photograph in an archive: its class, a file name unique across classes, and the name of its member."""

    class_name: str
    name: str
    member: str


def candidates(archive: zipfile.ZipFile) -> list[Candidate]:
    """Return the photographs of an archive with their classes, sorted.

    Documents, hidden files, `Thumbs.db`, `__MACOSX` and Kaggle's unlabelled test photographs are ignored.

    Args:
        archive: photographs in class folders, in Kaggle's layout, or in Microsoft's; the last gives class names in
            lower case.

    Raises:
        DataError: the layout is unknown, there are fewer than two classes, a class name is invalid or differs from
            another one in case only, or a member has a path outside the archive.
    """
    for member in archive.infolist():
        check_member(member)
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    paths = [PurePosixPath(name) for name in names]
    photographs = [path for path in paths if is_photograph(path)]
    if not photographs:
        raise DataError(f"Photographs must be in {LAYOUTS}. Received: {_count_suffixes(paths)}.")
    labelled = _kaggle(photographs) or _folders(photographs)
    _check_class_names(labelled)
    _check_unique_names(labelled)
    _check_two_classes(labelled)
    members = dict(zip(map(str, paths), names, strict=True))  # a path drops the `./` of `./cat/1.jpg`
    return sorted(candidate._replace(member=members[candidate.member]) for candidate in labelled)


def _kaggle(photographs: list[PurePosixPath]) -> list[Candidate]:
    """Return the photographs with the class in their file names, or none if any has another name or folder."""
    labelled = [path for path in photographs if path.parent.name not in _UNLABELLED]
    if len({path.parent for path in labelled}) != 1:
        return []
    matches = [(path, _KAGGLE_STEM.fullmatch(path.stem)) for path in labelled]
    candidates = [Candidate(_normalize(match["class_name"]), path.name, str(path)) for path, match in matches if match]
    return candidates if len(candidates) == len(labelled) else []


def _folders(photographs: list[PurePosixPath]) -> list[Candidate]:
    """Return the photographs with the class of their folder; the class folders are at the top or in one folder."""
    roots = {path.parent.parent for path in photographs}
    misplaced = next((path for path in photographs if len(path.parts) not in (2, 3)), None)
    if misplaced is None and len(roots) > 1:
        misplaced = min(photographs, key=lambda path: (len(path.parts), path))
    if misplaced is not None:
        raise DataError(f"Photographs must be in {LAYOUTS}. Received, among others: `{misplaced}`.")
    lower = roots == {PurePosixPath(_MICROSOFT_ROOT)}
    return [_in_folder(path, lower=lower) for path in photographs]


def _in_folder(path: PurePosixPath, *, lower: bool) -> Candidate:
    class_name = _normalize(path.parent.name.lower() if lower else path.parent.name)
    return Candidate(class_name, f"{class_name}.{path.name}", str(path))


def _normalize(name: str) -> str:
    """Return a name in Unicode's composed form; macOS writes letters with accents in two characters."""
    return unicodedata.normalize("NFC", name)


def _check_class_names(candidates: Iterable[Candidate]) -> None:
    by_case: dict[str, str] = {}
    for name in sorted({candidate.class_name for candidate in candidates}):
        if not _CLASS_NAME.fullmatch(name):
            raise DataError(
                f"A class name must have letters, digits, spaces, `_` and `-` only. Received: {name!r}. "
                "Rename its folder, or its photographs if their names have the class."
            )
        other = by_case.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"Class names must differ in more than case. Received: `{other}` and `{name}`. "
                "Use one spelling if they are one class; rename one of them if they are two."
            )


def _check_unique_names(candidates: Iterable[Candidate]) -> None:
    name, count = Counter(candidate.name for candidate in candidates).most_common(1)[0]
    if count > 1:
        raise DataError(f"Each photograph must be in the archive once. Received: `{name}` {count} times.")


def _check_two_classes(candidates: Iterable[Candidate]) -> None:
    names = sorted({candidate.class_name for candidate in candidates})
    if len(names) < 2:
        raise DataError(f"There must be two classes or more, in {LAYOUTS}. Received: only `{names[0]}`.")


def _count_suffixes(paths: Sequence[PurePosixPath]) -> str:
    """Return the number of files and an example for each of the five most frequent suffixes."""
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    examples = {path.suffix.lower() or "no suffix": path for path in reversed(paths)}
    return (
        ", ".join(f"{count} of {suffix} (`{examples[suffix]}`)" for suffix, count in counts.most_common(5))
        or "no files at all"
    )
