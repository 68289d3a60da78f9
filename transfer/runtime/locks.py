"""Locks between processes: one process at a time works on a file or folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from transfer.runtime import disk
from transfer.runtime.errors import DiskError, LockedError


@contextmanager
def exclusive(path: Path, *, busy: str) -> Iterator[None]:
    """Hold a lock file while the block runs, or raise at once if another process holds it.

    The lock ends with its process. The file stays, as removing it would let two processes lock two files of one name.

    Args:
        path: the lock file; it is created, with its folder, if it does not exist.
        busy: the message if another process holds the lock: who, and what to do next.

    Raises:
        LockedError: another process holds the lock.
        DiskError: the lock file cannot be opened, or its file system has no locks.
    """
    # with `fallback_to_soft` a killed process would leave its lock behind
    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise LockedError(busy) from None
    except OSError as error:
        raise DiskError(_message(error, path.parent)) from None
    try:
        yield
    finally:
        lock.release()


def _message(error: OSError, folder: Path) -> str:
    if error.filename is not None or disk.is_disk_error(error):
        return disk.error_message(error, folder)
    return (
        f"`{folder}` must be on a file system that has locks. Received: {error.strerror}. "
        "Work in a folder on another disk, then run again."
    )
