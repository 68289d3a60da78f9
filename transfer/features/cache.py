"""The memo: rows of features computed before, kept below `.cache/features/` so that none is computed twice."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from transfer.features import store
from transfer.runtime import files, paths
from transfer.runtime.errors import LockedError

MAX_GIGABYTES = 10.0  # what it may take of the disk: some 100,000 rows of photographs of 224 x 224 pixels

_Found = tuple[Path, os.stat_result]


class FeatureCache:
    """Rows of one recipe that were computed before, in `.cache/features/<digest>/`.

    Args:
        recipe: what they follow from besides their photographs.
        shapes: of each of a row's activations.
    """

    def __init__(self, recipe: store.Recipe, *, shapes: Sequence[tuple[int, ...]]) -> None:
        self.recipe = store.recipe_digest(recipe)
        self._shapes = list(shapes)
        self._folder = paths.cache("features", self.recipe)
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, photo: str) -> Path:
        """Where the row of the photograph with this sha256 lies or would lie."""
        return self._folder / f"{photo}.npz"

    def has(self, photo: str) -> bool:
        """Whether the row is there and whole, and remember that it is used; one that is damaged is forgotten.

        Only the access time is set: DVC takes a changed modification time for changed content.
        """
        try:
            row = store.read_row(self.path(photo), recipe=self.recipe, photo=photo)
        except FileNotFoundError:
            return False
        except store.DamagedRow:
            row = None
        if row is None or [part.shape for part in row] != self._shapes:
            self.path(photo).unlink(missing_ok=True)
            return False
        with suppress(OSError):  # another user's row, in a shared memo, or a disk that is read-only
            modified = self.path(photo).stat().st_mtime_ns
            os.utime(self.path(photo), ns=(max(modified, time.time_ns()), modified))
        return True

    def keep(self, photo: str, row: store.Row) -> None:
        """Add a row."""
        store.write_row(self.path(photo), row, recipe=self.recipe, photo=photo)

    def link(self, photo: str, folder: Path) -> None:
        """Put the row into `folder`.

        Raises:
            BusyError: another process has forgotten it meanwhile.
        """
        source = self.path(photo)
        try:
            files.link(source, folder / source.name)
        except FileNotFoundError:
            raise LockedError(
                f"The memo must keep the rows that are in use. Received: {source.name} forgotten by another run. "
                "Run again: it alone is computed."
            ) from None


def evict_least_recently_used(*, gigabytes: float = MAX_GIGABYTES) -> int:
    """Shrink the memo to at most `gigabytes` (10**9 bytes); returns how many rows were forgotten.

    What killed processes left half written goes too, once it is a day old.
    """
    for partial in paths.cache("features").glob("*/.*.npz.*"):
        if files.is_stale(partial):
            partial.unlink(missing_ok=True)
    rows = list(_rows())
    return _forget(rows, sum(status.st_size for _, status in rows) - gigabytes * 1e9)


def make_space(missing: int, *, keep: Collection[Path]) -> int:
    """Forget rows, the least recently used first, until the memo's disk has `missing` bytes more; returns how many.

    None are forgotten if that would not do. A row that is also an artifact goes on taking its place, and stays.

    Args:
        missing: bytes; nothing is missing below 1.
        keep: the rows that are about to be used.
    """
    spare = [(row, status) for row, status in _rows() if row not in keep and status.st_nlink == 1]
    if not 0 < missing <= sum(status.st_size for _, status in spare):
        return 0
    return _forget(spare, missing)


def _forget(rows: Iterable[_Found], excess: float) -> int:
    """Forget rows until that many bytes are gone, the least recently used first; returns how many."""
    forgotten = 0
    for row, status in sorted(rows, key=lambda found: found[1].st_atime_ns):
        if excess <= 0:
            break
        row.unlink(missing_ok=True)
        excess -= status.st_size
        forgotten += 1
    return forgotten


def _rows() -> Iterator[_Found]:
    for row in paths.cache("features").glob("*/*.npz"):
        with suppress(FileNotFoundError):  # forgotten by another process meanwhile
            yield row, row.stat()
