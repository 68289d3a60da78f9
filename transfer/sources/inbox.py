"""Inbox: the folder where users put photographs and weights, checked before anything in it is read."""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, NoReturn

from transfer.runtime import files
from transfer.runtime.errors import DataError
from transfer.sources import archives

_FILES_OF_DVC = frozenset({".dvc", ".dvcignore"})  # DVC passes over a folder with the first, and what the second names
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Content(NamedTuple):
    """The files and the folders below an inbox, hidden ones too, as relative paths, sorted."""

    files: list[PurePosixPath]
    folders: list[PurePosixPath]


def check(inbox: Path) -> None:
    """Check that DVC can hash an inbox, and notices every change in it; see `scan`. It takes no time to speak of."""
    scan(inbox)


def scan(inbox: Path) -> Content:
    """Return what is in an inbox; a missing one is empty.

    Raises:
        DataError: a file is a pipe, a socket, a device, or a link to one or to nothing; a folder is a link; or there is
            a `.dvc` or `.dvcignore`.
    """
    found: list[Path] = []
    folders: list[Path] = []
    if not inbox.is_dir():
        return Content([], [])
    for parent, folder_names, file_names in os.walk(inbox, onerror=_fail):
        for name in {*folder_names, *file_names} & _FILES_OF_DVC:
            raise DataError(
                "DVC must see every change in the inbox, and passes over files because of "
                f"`{Path(parent, name).as_posix()}`. Remove or rename it."
            )
        folders += [_check_folder(inbox, Path(parent, name)) for name in folder_names]
        found += [check_file(Path(parent, name)) for name in file_names]
    return Content(_relative(inbox, found), _relative(inbox, folders))


def check_file(path: Path) -> Path:
    """Return a path if it is a regular file or a link to one.

    Raises:
        DataError: it is not; opening a pipe or reading a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        if not path.is_symlink():
            raise
        kind = "a link to nothing"
    else:
        if stat.S_ISREG(mode):
            return path
        kind = f"{'a link to ' if path.is_symlink() else ''}{_KINDS.get(stat.S_IFMT(mode), 'no file')}"
    raise DataError(f"The inbox must hold files and folders only. Received: `{path.as_posix()}`, {kind}. Remove it.")


def open_file(path: Path) -> BinaryIO:
    """Open a file of the inbox, which may have been replaced since it was checked.

    Raises:
        DataError: it is not a regular file or a link to one.
    """
    try:
        return files.open_regular(path)
    except files.NotRegularError:
        check_file(path)
        raise


def _check_folder(inbox: Path, folder: Path) -> Path:
    if folder.is_symlink() and not archives.is_hidden(PurePosixPath(folder.relative_to(inbox))):
        raise DataError(
            "A class folder must be a folder itself, or DVC sees no change in it. "
            f"Received: the link `{folder.as_posix()}`. "
            f"Move or copy the folder there; `{inbox.as_posix()}` itself, and an archive, may be links."
        )
    return folder


def _relative(inbox: Path, paths: list[Path]) -> list[PurePosixPath]:
    return sorted(PurePosixPath(path.relative_to(inbox)) for path in paths)


def _fail(error: OSError) -> NoReturn:
    raise error
