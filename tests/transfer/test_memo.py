import os
from pathlib import Path

import numpy as np
import pytest

from transfer import features, memo, paths

PHOTO = "ab" * 32
ROW = features.row_from(np.ones((2, 2, 4), np.float32), np.ones((1, 1, 4), np.float32))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_row_kept_is_there(cache: Path) -> None:
    """What was computed once is found by whoever asks with the same recipe, wherever the cache is told to lie."""
    memo.Memo({"size": 1}).keep(PHOTO, ROW)
    assert memo.Memo({"size": 1}).has(PHOTO)
    assert not memo.Memo({"size": 2}).has(PHOTO)
    assert list(cache.rglob("*.npz"))


def test_a_damaged_row_is_forgotten() -> None:
    """A row that a power cut left incomplete is computed again."""
    rows = memo.Memo({})
    rows.keep(PHOTO, ROW)
    rows.path(PHOTO).write_bytes(rows.path(PHOTO).read_bytes()[:-10])
    assert not rows.has(PHOTO)
    assert not rows.path(PHOTO).exists()


def test_linking_takes_no_space_and_changes_no_modification_time(tmp_path: Path) -> None:
    """A row in the artifacts is the memo's own file, unchanged in DVC's eyes."""
    rows = memo.Memo({})
    rows.keep(PHOTO, ROW)
    before = rows.path(PHOTO).stat()
    rows.link(PHOTO, tmp_path / "0")
    after = (tmp_path / "0" / f"{PHOTO}.npz").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_least_recently_used_rows_are_forgotten_first(tmp_path: Path) -> None:
    """The memo keeps to its size, and what was linked last stays."""
    rows = memo.Memo({})
    names = [f"{number:064}" for number in range(4)]
    for age, name in enumerate(names):
        rows.keep(name, ROW)
        os.utime(rows.path(name), (1_000_000 + age, 1_000_000 + age))
    rows.link(names[0], tmp_path / "0")
    size = rows.path(names[0]).stat().st_size
    assert memo.forget_least_recently_used(gigabytes=2.5 * size / 1e9) == 2
    assert [rows.has(name) for name in names] == [True, False, False, True]


def test_a_memo_within_its_size_forgets_nothing() -> None:
    """Below the limit all rows stay."""
    memo.Memo({}).keep(PHOTO, ROW)
    assert memo.forget_least_recently_used() == 0
    assert list(paths.cache("features").glob("*/*.npz"))
