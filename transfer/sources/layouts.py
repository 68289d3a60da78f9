"""Layouts: the three ways in which archives of photographs name classes."""

import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from transfer.runtime.errors import DataError
from transfer.sources.archives import _refuse_hostile, is_photograph

LAYOUTS = (
    "folders named for the classes (`cat/1.jpg`, `dog/1.jpg`), one folder with Kaggle's names (`train/cat.1.jpg`, also "
    "in a `train.zip`), or Microsoft's folders (`PetImages/Cat/1.jpg`)"
)


_CLASS_NAME = re.compile(r"\w[\w -]*")


_KAGGLE_STEM = re.compile(r"(?P<class_name>[^.]+)\.\d+")


_UNLABELLED = {"test", "test1"}


_MICROSOFT_ROOT = "PetImages"


class Candidate(NamedTuple):
    """A photograph in an archive: its class, a file name unique across classes, and the archive's own name for it."""

    class_name: str
    name: str
    member: str


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


def _kaggle(photographs: list[PurePosixPath]) -> list[Candidate]:
    labelled = [path for path in photographs if path.parent.name not in _UNLABELLED]
    if len({path.parent for path in labelled}) != 1:
        return []
    matches = [(path, _KAGGLE_STEM.fullmatch(path.stem)) for path in labelled]
    found = [Candidate(_composed(match["class_name"]), path.name, str(path)) for path, match in matches if match]
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
    class_name = _composed(path.parent.name.lower() if lowered else path.parent.name)
    return Candidate(class_name, f"{class_name}.{path.name}", str(path))


def _composed(name: str) -> str:
    """A name as most systems write it: macOS takes letters with accents apart."""
    return unicodedata.normalize("NFC", name)


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


def _endings(paths: Sequence[PurePosixPath]) -> str:
    counts = Counter(path.suffix.lower() or "no ending" for path in paths)
    examples = {path.suffix.lower() or "no ending": path for path in reversed(paths)}
    return (
        ", ".join(f"{count} of {ending} (`{examples[ending]}`)" for ending, count in counts.most_common(5))
        or "no files at all"
    )
