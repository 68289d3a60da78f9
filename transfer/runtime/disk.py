"""Disk: check for space before long work, and tell in one line why a disk refused."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer.runtime.errors import DiskError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSALS = _FULL | {errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO, errno.EROFS}
_TEMPORARY = re.compile(r"\..+\.[\w-]+\.\d+\.[0-9a-f]+(\.\w+)?")  # the temporary names of `files`


@contextmanager
def space_for(needs: Mapping[Path, int]) -> Iterator[None]:
    """Call `require_space`, then raise `DiskError` with the path if a disk refuses while the block writes."""
    require_space(needs)
    try:
        yield
    except OSError as error:
        if is_disk_error(error):
            folder = next(iter(needs))
            raise DiskError(error_message(error, folder, needed=_total(needs, folder))) from None
        raise


def require_space(needs: Mapping[Path, int]) -> None:
    """Raise `DiskError` if a disk has less free than `needs`: estimated bytes by folder, 0 if unknown."""
    for folder, missing in shortage(needs).items():
        if missing > 0:
            raise DiskError(_full_message(folder, _total(needs, folder)))


def shortage(needs: Mapping[Path, int]) -> dict[Path, int]:
    """Return the bytes that each folder's disk lacks for all needs on it; negative if some remain free."""
    return {folder: _total(needs, folder) - free_bytes(folder) for folder in needs}


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user can still write below a folder, which need not exist."""
    return shutil.disk_usage(_existing_folder(folder)).free


def size_on_disk(sizes: Iterable[int]) -> int:
    """Return the bytes that files of these sizes occupy on a disk."""
    return sum(-(-size // 4096) * 4096 for size in sizes)  # most file systems use blocks of 4096 bytes


def can_hard_link(source: Path, target: Path) -> bool:
    """Try whether files of one folder can be hard links in another; the folders need not exist."""
    file = _existing_folder(source) / f".link.{secrets.token_hex(8)}"
    with suppress(OSError):
        file.touch()
        try:
            (link := _existing_folder(target) / f"{file.name}.linked").hardlink_to(file)
            link.unlink()
            return True
        finally:
            file.unlink()
    return False


def is_disk_error(error: OSError) -> bool:
    """Return whether the disk refused, which damaged data cannot cause; a missing permission must name a file."""
    return error.errno in _REFUSALS and not (isinstance(error, PermissionError) and _path_in(error) is None)


def reraise_disk_error(error: Exception, path: Path | str | None) -> None:
    """Raise the disk's refusal as an `OSError` with the file's name; return if `error` is anything else."""
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def error_message(error: OSError, folder: Path | None = None, *, needed: int = 0) -> str:
    """Return a line for the user; `folder` is named if the error names no path, `needed` is in bytes."""
    path, reason = _path_in(error) or folder, (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return _full_message(path if path in (None, folder) else _existing_folder(path), needed, reason)
    subject = f"`{_public(path)}`" if path else "The file"
    return f"{subject} must be usable. Received: {reason}. Check its path, permissions and disk, then run again."


def format_bytes(size: int) -> str:
    """Return a number of bytes with three digits and a unit."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def _full_message(folder: Path | None, needed: int, reason: str = "") -> str:
    subject = f"The disk of `{_public(folder)}`" if folder else "The disk"
    received = [reason] * bool(reason) + ([f"{format_bytes(free_bytes(folder))} free"] if folder else [])
    return (
        f"{subject} must have {f'{format_bytes(needed)} free' if needed else 'space for another file'}. Received: "
        f"{', '.join(received)}. Delete files there (docs/storage.md lists which can go), then run again."
    )


def _path_in(error: OSError) -> Path | None:
    name = error.filename2 or error.filename  # of two, as when copying, the second is written
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _total(needs: Mapping[Path, int], folder: Path) -> int:
    disk = _existing_folder(folder).stat().st_dev
    return sum(size for other, size in needs.items() if _existing_folder(other).stat().st_dev == disk)


def _public(path: Path) -> Path:
    return next((part.parent for part in reversed((path, *path.parents)) if _TEMPORARY.fullmatch(part.name)), path)


def _existing_folder(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if os.path.isdir(folder)), Path())  # noqa: PTH112
