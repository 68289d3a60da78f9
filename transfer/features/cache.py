"""Feature cache: rows of earlier runs in `.cache/features/`, so that none is computed twice."""

import os
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from transfer.features import store
from transfer.runtime import files, paths
from transfer.runtime.errors import LockedError

MAX_GIGABYTES = 10.0  # size limit: some 100,000 rows of photographs of 224 x 224 pixels

_RowFile = tuple[Path, os.stat_result]


class FeatureCache:
    """The rows of one recipe, in `.cache/features/<digest of the recipe>/`.

    Args:
        recipe: what the rows follow from, besides their photographs.
        shapes: the shape of each of a row's activations.
    """

    def __init__(self, recipe: store.Recipe, *, shapes: Sequence[tuple[int, ...]]) -> None:
        self.recipe = store.recipe_digest(recipe)
        self._shapes = list(shapes)
        self._folder = paths.cache("features", self.recipe)
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, photo: str) -> Path:
        """Return the path of the row of the photograph with this SHA-256, whether it exists or not."""
        return self._folder / f"{photo}.npz"

    def has(self, photo: str) -> bool:
        """Return whether there is an undamaged row; mark it as used, and remove a damaged one.

        Anything but a regular file, such as a pipe that never ends, a link or a folder, is removed unread. Only the
        access time is set: to DVC, a changed modification time means changed content.
        """
        path = self.path(photo)
        try:
            row = store.read_row(path, recipe=self.recipe, photo=photo)
        except FileNotFoundError:
            return False
        except (store.DamagedRow, files.NotRegularError):
            row = None
        if row is None or [part.shape for part in row] != self._shapes:
            _remove(path)
            return False
        with suppress(OSError):  # the row of another user in a shared cache, or a read-only disk
            modified = path.stat().st_mtime_ns
            os.utime(path, ns=(max(modified, time.time_ns()), modified))
        return True

    def put(self, photo: str, row: store.Row) -> None:
        """Add the row of the photograph with this SHA-256."""
        store.write_row(self.path(photo), row, recipe=self.recipe, photo=photo)

    def link(self, photo: str, folder: Path) -> None:
        """Link the row into `folder`, or copy it where the disks have no hard links.

        Raises:
            LockedError: another process has evicted the row in the meantime.
        """
        source = self.path(photo)
        try:
            files.link(source, folder / source.name)
        except FileNotFoundError:
            raise LockedError(
                f"{source} must stay in the feature cache until it is linked. Received: no such file; another run "
                "has evicted it. Run again: only evicted rows are computed."
            ) from None


def evict_least_recently_used(*, gigabytes: float = MAX_GIGABYTES) -> int:
    """Shrink the feature cache to a size, and remove temporary files of killed processes that are a day old.

    Args:
        gigabytes: the size, in units of 10**9 bytes.

    Returns:
        The number of rows evicted.
    """
    for temporary in paths.cache("features").glob("*/.*.npz.*"):
        if files.is_stale(temporary):
            temporary.unlink(missing_ok=True)
    rows = list(_rows())
    return _evict(rows, sum(status.st_size for _, status in rows) - gigabytes * 1e9)


def make_space(missing: int, *, keep: Collection[Path]) -> int:
    """Evict the least recently used rows until the feature cache's disk has `missing` bytes more.

    No row is evicted if all of them together would not be enough. A row that is also hard-linked as an artifact is
    not evicted, as that would free no space.

    Args:
        missing: bytes; with 0 or less, nothing is evicted.
        keep: rows that are needed soon and must not be evicted.

    Returns:
        The number of rows evicted.
    """
    evictable = [(row, status) for row, status in _rows() if row not in keep and status.st_nlink == 1]
    if not 0 < missing <= sum(status.st_size for _, status in evictable):
        return 0
    return _evict(evictable, missing)


def _evict(rows: Iterable[_RowFile], excess: float) -> int:
    """Remove rows, the least recently used first, until `excess` bytes are freed; return how many."""
    evicted = 0
    for row, status in sorted(rows, key=lambda row_file: row_file[1].st_atime_ns):
        if excess <= 0:
            break
        row.unlink(missing_ok=True)
        excess -= status.st_size
        evicted += 1
    return evicted


def _rows() -> Iterator[_RowFile]:
    """Yield every row of every recipe with its status."""
    for row in paths.cache("features").glob("*/*.npz"):
        with suppress(FileNotFoundError):  # evicted by another process in the meantime
            status = row.lstat()
            if _is_regular(status):
                yield row, status


def _is_regular(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
