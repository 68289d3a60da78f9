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


def cache_of(recipe: store.Recipe) -> FeatureCache:
    """Return the feature cache of a recipe whose rows have the shapes of `ROW`."""
    return FeatureCache(recipe, shapes=[part.shape for part in ROW])


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that this test uses as the cache."""
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_row_is_found_by_its_recipe_and_photograph(cache_folder: Path) -> None:
    """A row that was put in is found with the same recipe, in the folder that `DOGS_VS_CATS_CACHE` names."""
    cache_of({"size": 1}).put(PHOTO, ROW)
    assert cache_of({"size": 1}).has(PHOTO)
    assert not cache_of({"size": 2}).has(PHOTO)
    assert list(cache_folder.rglob("*.npz"))


def cut(path: Path) -> None:
    """Truncate a row, as a power cut may do."""
    path.write_bytes(path.read_bytes()[:-10])


def replace_by_other_shapes(path: Path) -> None:
    """Replace a row by one of other shapes that has the same mark."""
    larger = store.to_row(np.ones((4, 4, 4), np.float32), np.ones((2, 2, 4), np.float32))
    store.write_row(path, larger, recipe=store.recipe_digest({}), photo=PHOTO)


def replace_by_objects(path: Path) -> None:
    """Replace a row by pickled objects, which can run code when they are read."""
    np.savez(path, boundary=np.array([{}], object), pooled=np.array([{}], object), mark=np.array([{}], object))


def replace_by_other_weights(path: Path) -> None:
    """Replace a row by one that was made with other weights."""
    store.write_row(path, ROW, recipe=store.recipe_digest({"weights": "others"}), photo=PHOTO)


def append_bytes(path: Path) -> None:
    """Append bytes to a row, which zipfile ignores."""
    path.write_bytes(path.read_bytes() + b"junk")


def prepend_bytes(path: Path) -> None:
    """Write bytes before a row, which zipfile ignores, too."""
    path.write_bytes(b"junk" + path.read_bytes())


def replace_by_pipe(path: Path) -> None:
    """Replace a row by a pipe, whose reading never ends."""
    path.unlink()
    os.mkfifo(path)


def replace_by_link_to_pipe(path: Path) -> None:
    """Replace a row by a link to a pipe."""
    os.mkfifo(path.with_name("pipe"))
    path.unlink()
    path.symlink_to(path.with_name("pipe"))


def replace_by_link_to_device(path: Path) -> None:
    """Replace a row by a link to a device that gives bytes without end."""
    path.unlink()
    path.symlink_to("/dev/zero")


def replace_by_link_to_row(path: Path) -> None:
    """Replace a row by a link to a copy of it elsewhere, where it may change."""
    path.rename(path.with_name("row"))
    path.symlink_to(path.with_name("row"))


def replace_by_folder(path: Path) -> None:
    """Replace a row by a folder with a file in it."""
    path.unlink()
    path.mkdir()
    (path / "file").touch()


IRREGULAR = pytest.mark.reliability(
    "tampered", "a pipe, a device, a link or a folder in the feature cache", "removed unread, and computed again"
)
EXTRA = pytest.mark.reliability("tampered", "bytes before or after a row of features", "computed again")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(append_bytes, marks=EXTRA),
        pytest.param(prepend_bytes, marks=EXTRA),
        pytest.param(replace_by_pipe, marks=IRREGULAR),
        pytest.param(replace_by_link_to_pipe, marks=IRREGULAR),
        pytest.param(replace_by_link_to_device, marks=IRREGULAR),
        pytest.param(replace_by_link_to_row, marks=IRREGULAR),
        pytest.param(replace_by_folder, marks=IRREGULAR),
        pytest.param(
            cut, marks=pytest.mark.reliability("tampered", "a row of features truncated or changed", "computed again")
        ),
        pytest.param(
            replace_by_other_shapes,
            marks=pytest.mark.reliability("tampered", "a row of features of another shape", "computed again"),
        ),
        pytest.param(
            replace_by_objects,
            marks=pytest.mark.reliability(
                "tampered", "a row of pickled objects instead of features", "not executed, and computed again"
            ),
        ),
        pytest.param(
            replace_by_other_weights,
            marks=pytest.mark.reliability(
                "tampered", "a row of features of other weights, or of another photograph", "computed again"
            ),
        ),
    ],
)
def test_a_damaged_or_replaced_row_is_removed(damage: Callable[[Path], None]) -> None:
    """The cache does not have a row that is damaged or belongs elsewhere, so it is computed again."""
    rows = cache_of({})
    rows.put(PHOTO, ROW)
    assert rows.has(PHOTO)
    damage(rows.path(PHOTO))
    assert not rows.has(PHOTO)
    assert not os.path.lexists(rows.path(PHOTO))
    rows.put(PHOTO, ROW)
    assert rows.has(PHOTO)


def test_only_regular_files_are_counted_and_evicted(cache_folder: Path) -> None:
    """A pipe or a folder with the name of a row does not stop eviction, and is left alone."""
    rows = cache_of({})
    rows.put(PHOTO, ROW)
    os.mkfifo(rows.path("cd" * 32))
    rows.path("ef" * 32).mkdir()
    assert evict_least_recently_used(gigabytes=0) == 1
    assert len(list(cache_folder.rglob("*.npz"))) == 2


def test_a_linked_row_is_the_same_file_with_its_modification_time(tmp_path: Path) -> None:
    """Looking a row up and linking it takes no disk space, and DVC sees no change."""
    rows = cache_of({})
    rows.put(PHOTO, ROW)
    before = rows.path(PHOTO).stat()
    assert rows.has(PHOTO)
    rows.link(PHOTO, tmp_path / "0")
    after = (tmp_path / "0" / f"{PHOTO}.npz").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_least_recently_used_rows_are_evicted_first() -> None:
    """Rows are evicted down to the size limit; the row looked up last is kept."""
    rows = cache_of({})
    names = [f"{number:064}" for number in range(4)]
    for age, name in enumerate(names):
        rows.put(name, ROW)
        os.utime(rows.path(name), (1_000_000 + age, 1_000_000 + age))
    assert rows.has(names[0])
    size = rows.path(names[0]).stat().st_size
    assert evict_least_recently_used(gigabytes=2.5 * size / 1e9) == 2
    assert [rows.has(name) for name in names] == [True, False, False, True]


@pytest.mark.reliability(
    "two at once", "rows that one run needs are evicted by another", "75; the next run computes evicted rows alone"
)
def test_an_evicted_row_is_an_error_worth_a_retry(tmp_path: Path) -> None:
    """If another run evicts a row between its lookup and its linking, the exit code asks for a retry."""
    rows = cache_of({})
    rows.put(PHOTO, ROW)
    assert rows.has(PHOTO)
    assert evict_least_recently_used(gigabytes=0) == 1
    with pytest.raises(LockedError, match="another run has evicted it"):
        rows.link(PHOTO, tmp_path / "0")


def test_nothing_is_evicted_below_the_size_limit() -> None:
    """Rows that take less than the limit are all kept."""
    cache_of({}).put(PHOTO, ROW)
    assert evict_least_recently_used() == 0
    assert list(paths.cache("features").glob("*/*.npz"))


def test_only_as_many_rows_are_evicted_as_needed(tmp_path: Path) -> None:
    """The least recently used rows are evicted, but not those to keep, nor those hard-linked as artifacts."""
    rows = cache_of({})
    names = [f"{number:064}" for number in range(5)]
    for age, name in enumerate(names):
        rows.put(name, ROW)
        os.utime(rows.path(name), (1_000_000 + age, 1_000_000 + age))
    (tmp_path / "artifact").hardlink_to(rows.path(names[0]))
    size = rows.path(names[0]).stat().st_size
    keep = [rows.path(names[1])]
    assert make_space(0, keep=keep) == 0
    assert make_space(3 * size + 1, keep=keep) == 0
    assert make_space(size + 1, keep=keep) == 2
    assert [rows.has(name) for name in names] == [True, True, False, False, True]
