"""Layouts: the arrangements of files that give each photograph its class."""

import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from transfer.runtime.errors import DataError
from transfer.sources import class_names
from transfer.sources.archives import check_member, is_hidden, is_photograph

LAYOUTS = (
    "one folder per class (`cat/1.jpg`, `dog/1.jpg`), one folder with Kaggle's file names (`train/cat.1.jpg`, also in "
    "a `train.zip`), or Microsoft's folders (`PetImages/Cat/1.jpg`)"
)
SPLITS = frozenset({"train", "training", "valid", "validation", "val", "test", "test1"})

_CLASS_IN_NAME = re.compile(r"(?P<class_name>[^.]+)\.\d+")
_UNLABELLED = frozenset({"test", "test1"})
_MICROSOFT_ROOT = "PetImages"
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_COUNTS = re.compile(rb"left out: (.*)")  # the comment of an archive that `download` packs
_TOP = PurePosixPath()

Folders = Mapping[PurePosixPath, Sequence[PurePosixPath]]  # photographs by their folder


class Candidate(NamedTuple):
    """A photograph in an archive: its class, a file name unique across classes, and the name of its member."""

    class_name: str
    name: str
    member: str


class Layout(NamedTuple):
    """The photographs with their classes, and what is left out.

    Args:
        candidates: the photographs, sorted.
        left_out: the number of files by their ending that are no photographs though they are in folders of
            photographs, and of photographs without a class (`unlabelled`).
        merged: the folders of splits, such as `train` and `validation`, that are merged; none if there is only one.
    """

    candidates: list[Candidate]
    left_out: dict[str, int]
    merged: list[str]

    def describe(self) -> str:
        """Return one line about what is merged and left out, or an empty text."""
        merged = f"{_quote(self.merged)} are merged, as `split` divides the photographs itself" if self.merged else ""
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in self.left_out.items())
        return "; ".join(filter(None, [merged, f"left out: {counts}" if counts else ""]))


def candidates(archive: zipfile.ZipFile) -> list[Candidate]:
    """Return the photographs of an archive with their classes, sorted; see `read`."""
    return read(archive).candidates


def read(archive: zipfile.ZipFile) -> Layout:
    """Return the photographs of an archive with their classes, and what is left out.

    Args:
        archive: photographs in class folders, in Kaggle's layout, or in Microsoft's; the last gives class names in
            lower case.

    Raises:
        DataError: the layout is unknown, there are fewer than two classes, a class has no photographs, a class name
            is invalid, in an unknown encoding, or looks like another one, or a member has a path outside the archive.
    """
    for member in archive.infolist():
        check_member(member)
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    folders = [PurePosixPath(member.filename) for member in archive.infolist() if member.is_dir()]
    layout = arrange([PurePosixPath(name) for name in names], folders)
    members = {str(PurePosixPath(name)): name for name in names}  # a path drops the `./` of `./cat/1.jpg`
    found = sorted(candidate._replace(member=members[candidate.member]) for candidate in layout.candidates)
    class_names.check_encoding(archive, ((candidate.class_name, candidate.member) for candidate in found))
    class_names.check(candidate.class_name for candidate in found)
    return layout._replace(candidates=found, left_out=_read_counts(archive.comment) | layout.left_out)


def arrange(files: Iterable[PurePosixPath], folders: Iterable[PurePosixPath] = ()) -> Layout:
    """Give each photograph its class by its folder or its name.

    Hidden files, `Thumbs.db`, `__MACOSX`, `@eaDir` and Kaggle's unlabelled test photographs are left out.

    Args:
        files: relative paths of all files.
        folders: relative paths of all folders; those of files may be missing.

    Raises:
        DataError: as `read`, except for class names.
    """
    visible = [path for path in files if not is_hidden(path) and path.name.casefold() not in _SYSTEM_FILES]
    photographs = [path for path in visible if is_photograph(path)]
    others = [path for path in visible if not is_photograph(path)]
    if not photographs:
        raise DataError(f"Photographs must be in {LAYOUTS}. Received: {_count_suffixes(visible)}.")
    by_folder = _group(photographs)
    tests = _unlabelled(by_folder)
    unlabelled = sum(len(by_folder[folder]) for folder in tests)
    by_folder = {folder: paths for folder, paths in by_folder.items() if folder not in tests}
    named = [folder for folder in by_folder if _is_named(folder, by_folder)]
    if named:
        found, splits = _by_name(by_folder, named)
    else:
        found, splits = _by_folder(by_folder)
        parents = {folder.parent for folder in by_folder}
        empty = {*folders, *(folder for path in others for folder in path.parents)} - {_TOP}
        _check_no_class_is_empty(found, [folder for folder in empty if folder.parent in parents], others)
    _check_unique_names(found)
    _check_two_classes(found)
    used = {*by_folder} - {_TOP}
    left_out = Counter(_suffix(path) for path in others if any(folder in used for folder in path.parents))
    counts = dict(left_out.most_common()) | ({"unlabelled": unlabelled} if unlabelled else {})
    return Layout(sorted(found), counts, sorted(str(split) for split in splits))


def encode_counts(left_out: Mapping[str, int]) -> bytes:
    """Return the comment of an archive that `download` packs, from which `read` learns what was left out."""
    return b"left out: " + json.dumps(left_out).encode() if left_out else b""


def _read_counts(comment: bytes) -> dict[str, int]:
    match = _COUNTS.fullmatch(comment)
    try:
        counts = json.loads(match[1]) if match else {}
    except ValueError:
        return {}
    return counts if isinstance(counts, dict) and all(type(count) is int for count in counts.values()) else {}


def _group(photographs: Iterable[PurePosixPath]) -> Folders:
    by_folder: defaultdict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for path in sorted(photographs):
        by_folder[path.parent].append(path)
    return by_folder


def _class_in_name(path: PurePosixPath) -> str:
    """Return the class in a name such as `cat.1.jpg`, or an empty text."""
    match = _CLASS_IN_NAME.fullmatch(path.stem)
    return class_names.normalize(match["class_name"]) if match else ""


def _is_split(folder: PurePosixPath) -> bool:
    return folder.name.casefold() in SPLITS


def _unlabelled(by_folder: Folders) -> set[PurePosixPath]:
    """Return the folders `test` and `test1` whose names have no classes, if other splits or names have them."""
    tests = {
        folder
        for folder, paths in by_folder.items()
        if folder.name.casefold() in _UNLABELLED and not any(map(_class_in_name, paths))
    }
    others = [folder for folder in by_folder if folder not in tests]
    in_splits = all(_is_split(folder) or _is_split(folder.parent) for folder in others)
    by_name = len(others) == 1 and any(map(_class_in_name, by_folder[others[0]]))
    return tests if others and (in_splits or by_name) else set()


def _is_named(folder: PurePosixPath, by_folder: Folders) -> bool:
    """Return whether the names of a folder's photographs must have the classes, not the folder."""
    classes = {_class_in_name(path) for path in by_folder[folder]}
    if _is_split(folder):  # except a class `test` with the photographs `test.1.jpg`
        return {name.casefold() for name in classes} != {folder.name.casefold()} or len(by_folder) == 1
    return folder == _TOP or (len(by_folder) == 1 and classes != {""})


def _by_name(by_folder: Folders, named: Sequence[PurePosixPath]) -> tuple[list[Candidate], list[PurePosixPath]]:
    """Return the photographs with the class in their names, and the folders of splits that are merged."""
    labelled = [(path, _class_in_name(path)) for folder in named for path in by_folder[folder]]
    class_folders = [paths for folder, paths in by_folder.items() if folder not in named]
    if class_folders:
        with_class = sum(bool(name) for _, name in labelled)
        by_class_folder = not with_class or (len(class_folders) > 1 and sum(map(len, class_folders)) > with_class)
        raise _misplaced(labelled[0][0] if by_class_folder else class_folders[0][0])
    if nameless := [path for path, name in labelled if not name]:
        raise _misplaced(nameless[0])
    siblings = {folder for folder in named if folder != _TOP and folder.parent == named[-1].parent}
    if len(named) > 1 and len(siblings) < len(named):
        raise _misplaced(next(by_folder[folder][0] for folder in named if folder not in siblings))
    splits = list(named) if len(named) > 1 else []
    found = [
        Candidate(name, f"{path.parent.name}.{path.name}" if splits else path.name, str(path))
        for path, name in labelled
    ]
    _check_same_classes(found, splits)
    return found, splits


def _by_folder(by_folder: Folders) -> tuple[list[Candidate], list[PurePosixPath]]:
    """Return the photographs with the class of their folder, and the folders of splits that are merged."""
    places: defaultdict[tuple[PurePosixPath, bool], list[PurePosixPath]] = defaultdict(list)
    for folder in by_folder:
        if any(parent in by_folder for parent in folder.parents):
            raise _misplaced(by_folder[folder][0])  # in a folder within a class folder
        in_split = _is_split(folder.parent)
        places[folder.parent.parent if in_split else folder.parent, in_split].append(folder)
    best = max(places.values(), key=lambda folders: (len(folders), sum(len(by_folder[folder]) for folder in folders)))
    if elsewhere := [folder for folder in by_folder if folder not in best]:
        raise _misplaced(by_folder[elsewhere[0]][0])
    splits = list(dict.fromkeys(folder.parent for folder in best))
    splits = splits if len(splits) > 1 else []
    found = [_in_folder(path, merged=bool(splits)) for paths in by_folder.values() for path in paths]
    _check_same_classes(found, splits)
    return found, splits


def _in_folder(path: PurePosixPath, *, merged: bool) -> Candidate:
    folder = path.parent
    class_name = _class_of(folder)
    split = f"{folder.parent.name}." if merged else ""
    return Candidate(class_name, f"{class_name}.{split}{path.name}", str(path))


def _class_of(folder: PurePosixPath) -> str:
    return class_names.normalize(folder.name.lower() if folder.parent.name == _MICROSOFT_ROOT else folder.name)


def _misplaced(path: PurePosixPath) -> DataError:
    return DataError(
        f"Photographs must be in {LAYOUTS}; folders of splits, such as `train` and `test`, are no classes. "
        f"Received, among others: `{path}`. Move or rename it."
    )


def _check_same_classes(found: Iterable[Candidate], splits: Sequence[PurePosixPath]) -> None:
    """Check that the largest of the splits that are merged has all classes: a class of another one is a mistake."""
    by_split: defaultdict[PurePosixPath, list[Candidate]] = defaultdict(list)
    for candidate in found:
        folder = next(split for split in splits if split in PurePosixPath(candidate.member).parents) if splits else _TOP
        by_split[folder].append(candidate)
    largest, members = max(by_split.items(), key=lambda item: len(item[1]))
    classes = {candidate.class_name for candidate in members}
    if unknown := [candidate for candidate in found if candidate.class_name not in classes]:
        raise DataError(
            f"Each split must have the classes of `{largest}`: {_quote(sorted(classes))}. "
            f"Received: `{unknown[0].member}`. Move or rename it, or remove its folder."
        )


def _check_no_class_is_empty(
    found: Iterable[Candidate], empty: Iterable[PurePosixPath], others: Sequence[PurePosixPath]
) -> None:
    classes = {candidate.class_name for candidate in found}
    for folder in sorted(folder for folder in empty if not is_hidden(folder) and _class_of(folder) not in classes):
        inside = [path for path in others if folder in path.parents]
        raise DataError(
            f"Each class folder must have a photograph. Received: `{folder}` with "
            f"{_count_suffixes(inside)}. Save its pictures as JPEG or PNG, or remove the folder."
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
    counts = Counter(_suffix(path) for path in paths)
    examples = {_suffix(path): path for path in reversed(paths)}
    return (
        ", ".join(f"{count} of {suffix} (`{examples[suffix]}`)" for suffix, count in counts.most_common(5))
        or "no files at all"
    )


def _suffix(path: PurePosixPath) -> str:
    return path.suffix.lower() or "no suffix"


def _quote(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
