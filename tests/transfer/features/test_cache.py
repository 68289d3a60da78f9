import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfer.features import store
from transfer.features.cache import FeatureCache, evict_least_recently_used, make_space
from transfer.runtime import paths
from transfer.runtime.errors import LockedError

PHOTO = "ab" * 32
ROW = store.to_row(np.ones((2, 2, 4), np.float32), np.ones((1, 1, 4), np.float32))


def of(recipe: store.Recipe) -> FeatureCache:
    """The memo of a recipe that makes rows like this one."""
    return FeatureCache(recipe, shapes=[part.shape for part in ROW])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_row_kept_is_there(cache: Path) -> None:
    """What was computed once is found by whoever asks with the same recipe, wherever the cache is told to lie."""
    of({"size": 1}).keep(PHOTO, ROW)
    assert of({"size": 1}).has(PHOTO)
    assert not of({"size": 2}).has(PHOTO)
    assert list(cache.rglob("*.npz"))


def cut(path: Path) -> None:
    """What a power cut leaves of a row."""
    path.write_bytes(path.read_bytes()[:-10])


def widen(path: Path) -> None:
    """Another network's activations under the right mark."""
    wider = store.to_row(np.ones((4, 4, 4), np.float32), np.ones((2, 2, 4), np.float32))
    store.write_row(path, wider, recipe=store.recipe_digest({}), photo=PHOTO)


def fill_with_objects(path: Path) -> None:
    """Objects, which may run code when they are read."""
    np.savez(path, boundary=np.array([{}], object), pooled=np.array([{}], object), mark=np.array([{}], object))


def make_by_others(path: Path) -> None:
    """A row of other weights."""
    store.write_row(path, ROW, recipe=store.recipe_digest({"weights": "others"}), photo=PHOTO)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            cut, marks=pytest.mark.reliability("tampered", "a row of features cut short or changed", "computed anew")
        ),
        pytest.param(
            widen, marks=pytest.mark.reliability("tampered", "a row of features of another shape", "computed anew")
        ),
        pytest.param(
            fill_with_objects,
            marks=pytest.mark.reliability(
                "tampered", "a row of pickled objects instead of features", "not executed, and computed anew"
            ),
        ),
        pytest.param(
            make_by_others,
            marks=pytest.mark.reliability(
                "tampered", "a row of features of other weights, or of another photograph", "computed anew"
            ),
        ),
    ],
)
def test_a_row_that_is_not_what_its_place_says_is_forgotten(spoil: Callable[[Path], None]) -> None:
    """A row that was damaged or replaced is computed again."""
    rows = of({})
    rows.keep(PHOTO, ROW)
    assert rows.has(PHOTO)
    spoil(rows.path(PHOTO))
    assert not rows.has(PHOTO)
    assert not rows.path(PHOTO).exists()


def test_linking_takes_no_space_and_changes_no_modification_time(tmp_path: Path) -> None:
    """A row in the artifacts is the memo's own file, unchanged in DVC's eyes."""
    rows = of({})
    rows.keep(PHOTO, ROW)
    before = rows.path(PHOTO).stat()
    assert rows.has(PHOTO)
    rows.link(PHOTO, tmp_path / "0")
    after = (tmp_path / "0" / f"{PHOTO}.npz").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_least_recently_used_rows_are_forgotten_first() -> None:
    """The memo keeps to its size, and what was looked up last stays."""
    rows = of({})
    names = [f"{number:064}" for number in range(4)]
    for age, name in enumerate(names):
        rows.keep(name, ROW)
        os.utime(rows.path(name), (1_000_000 + age, 1_000_000 + age))
    assert rows.has(names[0])
    size = rows.path(names[0]).stat().st_size
    assert evict_least_recently_used(gigabytes=2.5 * size / 1e9) == 2
    assert [rows.has(name) for name in names] == [True, False, False, True]


@pytest.mark.reliability(
    "two at once", "rows that one run has looked up are forgotten by another", "ends with 75; they alone are computed"
)
def test_a_row_that_was_forgotten_meanwhile_is_worth_a_new_run(tmp_path: Path) -> None:
    """A memo that is shared has room for the rows of all, or the one that lost some of them runs again."""
    rows = of({})
    rows.keep(PHOTO, ROW)
    assert rows.has(PHOTO)
    assert evict_least_recently_used(gigabytes=0) == 1
    with pytest.raises(LockedError, match="forgotten by another run"):
        rows.link(PHOTO, tmp_path / "0")


def test_a_memo_within_its_size_forgets_nothing() -> None:
    """Below the limit all rows stay."""
    of({}).keep(PHOTO, ROW)
    assert evict_least_recently_used() == 0
    assert list(paths.cache("features").glob("*/*.npz"))


def test_a_memo_makes_room_as_far_as_it_is_needed(tmp_path: Path) -> None:
    """The least recently used rows go; those about to be used and those that are artifacts too stay."""
    rows = of({})
    names = [f"{number:064}" for number in range(5)]
    for age, name in enumerate(names):
        rows.keep(name, ROW)
        os.utime(rows.path(name), (1_000_000 + age, 1_000_000 + age))
    (tmp_path / "artifact").hardlink_to(rows.path(names[0]))
    size = rows.path(names[0]).stat().st_size
    keep = [rows.path(names[1])]
    assert make_space(0, keep=keep) == 0
    assert make_space(3 * size + 1, keep=keep) == 0
    assert make_space(size + 1, keep=keep) == 2
    assert [rows.has(name) for name in names] == [True, True, False, False, True]
