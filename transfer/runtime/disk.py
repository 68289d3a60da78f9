"""Disk: room that is asked for before long work begins, and in plain words what it means when a disk refuses."""

import errno
import os
import re
import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer.runtime.errors import DiskError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_REFUSALS = _FULL | _FORBIDDEN | {errno.EFBIG, errno.EIO, errno.EROFS}
_BLOCK = 4096  # what a file's bytes are rounded up to on nearly all disks
_HALF_WRITTEN = re.compile(r"\..+\.[\w-]+\.\d+(\.\w+)?")  # how `outputs` calls what is not whole yet
_GO_ON = "then run again: what is whole is kept."


@contextmanager
def space_for(needs: Mapping[Path, int]) -> Iterator[None]:
    """Have a block write below some folders, and refuse it at once where a disk has too little room for it.

    Args:
        needs: about how many bytes each folder is to take; 0 where it is not known. Folders need not be there yet.

    Raises:
        DiskError: a disk has less free, or refuses while the block writes.
    """
    require_space(needs)
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        folder = next(iter(needs))
        raise DiskError(error_message(error, folder, needed=_on_the_disk_of(folder, needs))) from None


def require_space(needs: Mapping[Path, int]) -> None:
    """Refuse work for which a disk has too little room.

    Args:
        needs: about how many bytes each folder is to take. Folders need not be there yet.

    Raises:
        DiskError: a disk has less free.
    """
    for folder, missing in shortage(needs).items():
        if missing > 0:
            raise DiskError(_full(folder, needed=_on_the_disk_of(folder, needs)))


def shortage(needs: Mapping[Path, int]) -> dict[Path, int]:
    """How many bytes each folder's disk lacks for all that is needed there; negative where it has more."""
    return {folder: _on_the_disk_of(folder, needs) - free_bytes(folder) for folder in needs}


def free_bytes(folder: Path) -> int:
    """How many bytes this user may still write below a folder."""
    status = os.statvfs(_nearest(folder))
    return status.f_bavail * status.f_frsize


def size_on_disk(sizes: Iterable[int]) -> int:
    """How many bytes files of these sizes take of a disk."""
    return sum(-(-size // _BLOCK) * _BLOCK for size in sizes)


def can_hard_link(source: Path, target: Path) -> bool:
    """Whether a file of one folder can be a hard link in another; neither need be there yet."""
    name = f".link.{secrets.token_hex(8)}"
    file, link = _nearest(source) / name, _nearest(target) / f"{name}.linked"
    try:
        file.touch()
        link.hardlink_to(file)
    except OSError:
        return False
    else:
        link.unlink()
        return True
    finally:
        with suppress(OSError):
            file.unlink()


def is_disk_error(error: OSError) -> bool:
    """Whether an error is the disk's refusal to be written or read, and nothing that damaged data could cause.

    A lack of permission is the disk's only where a file is named: there are others.
    """
    return error.errno in _REFUSALS and (error.errno not in _FORBIDDEN or _named(error) is not None)


def reraise_disk_error(error: Exception, path: Path | str | None) -> None:
    """Raise a refusal of the disk, with the name of the file, where others would take it for damaged data.

    Raises:
        OSError: `error` is one.
    """
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def error_message(error: OSError, folder: Path | None = None, *, needed: int = 0) -> str:
    """What is wrong with the disk and what to do, as a line for the user.

    Args:
        error: what the system said.
        folder: where it happened, if it is known, unless the error says it itself.
        needed: bytes, if known.
    """
    place = _named(error) or folder
    if place and place != folder:
        folder = place if _is_folder(place) else place.parent
    said = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return _full(folder, needed=needed, said=said)
    if error.errno in _FORBIDDEN and place:
        return _forbidden(place, said)
    if error.errno == errno.EROFS:
        return (
            f"{_shown(folder)} must lie on a disk that can be written to. Received: {said}. "
            f"Mount it for writing or work in another folder, {_GO_ON}"
        )
    if error.errno == errno.EFBIG:
        return (
            f"{_shown(folder)} must take files as large as they come. Received: {said}. "
            f"Look at `ulimit -f`, or use another kind of file system, {_GO_ON}"
        )
    if error.errno == errno.EIO:
        return (
            f"{_shown(place)} must be readable and writable. Received: {said}. "
            f"The disk or the way to it fails: look at the system's log, {_GO_ON}"
        )
    return (
        f"{_shown(place)} must be a file or folder that can be used. Received: {said}. "
        "Mend what lies there and run again."
    )


def format_bytes(size: int) -> str:
    """A number of bytes for people."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def _full(folder: Path | None, *, needed: int, said: str = "") -> str:
    disk = f"The disk of {_shown(folder)}" if folder else "The disk"
    asked = f"have {format_bytes(needed)} free" if needed else "have room for what is written"
    free_there = [f"{format_bytes(free_bytes(folder))} free", _without_inodes(folder)] if folder else []
    return (
        f"{disk} must {asked}. Received: {', '.join(filter(None, [said, *free_there]))}. "
        f"Free space there (docs/storage.md says what may go), {_GO_ON}"
    )


def _without_inodes(folder: Path) -> str:
    status = os.statvfs(_nearest(folder))
    return "no inode for another file" if status.f_files and not status.f_favail else ""


def _forbidden(place: Path, said: str) -> str:
    closed = _closed(place)
    ours = not os.path.lexists(closed) or closed.lstat().st_uid == os.geteuid()
    cure = f"{'chmod -R u+rwX' if ours else 'sudo chown -R $(id -un)'} {shlex.quote(str(closed))}"
    return f"{_shown(closed)} must be yours to read and write. Received: {said}. Run `{cure}`, {_GO_ON}"


def _closed(place: Path) -> Path:
    """What keeps this user from a path: itself, the folder it is or would be in, or one on the way there.

    A file need not be writable, as files are replaced; if nothing else keeps the user from it, that is what does.
    """
    folder = os.R_OK | os.W_OK | os.X_OK
    way = [one for one in place.parents if os.path.lexists(one)]
    needed = [(place, folder if _is_folder(place) else os.R_OK), *((one, os.W_OK | os.X_OK) for one in way[:1])]
    needed += [(one, os.X_OK) for one in way[1:]]
    return next((one for one, rights in needed if os.path.lexists(one) and not os.access(one, rights)), place)


def _named(error: OSError) -> Path | None:
    """The place an error names; of two, as in copying, the second is the one that is written."""
    name = error.filename2 or error.filename
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _on_the_disk_of(folder: Path, needs: Mapping[Path, int]) -> int:
    disk = _nearest(folder).stat().st_dev
    return sum(size for other, size in needs.items() if _nearest(other).stat().st_dev == disk)


def _shown(place: Path | None) -> str:
    """A place as users know it: not the folder that is still being filled to be moved there."""
    if place is None:
        return "The disk"
    half_written = [one for one in (place, *place.parents) if _HALF_WRITTEN.fullmatch(one.name)]
    return f"`{half_written[-1].parent if half_written else place}`"


def _nearest(path: Path) -> Path:
    """The path, or the first above it, that is a folder already."""
    return next((one for one in (path, *path.parents) if _is_folder(one)), Path())


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path's own raises where looking is not allowed)
