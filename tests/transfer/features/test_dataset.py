from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.conftest import Cached
from transfer.features import dataset, store
from transfer.runtime.errors import DataError


def read(folder: Path, entries: list, *, seed: int | None = None, batch_size: int = 5) -> dataset.FeatureDataset:
    """The training split as views."""
    train = [entry for entry in entries if entry.split == "train"]
    return dataset.FeatureDataset(
        folder, train, classes=["cat", "dog"], part="pooled", batch_size=batch_size, seed=seed
    )


def test_an_epoch_shows_every_photograph_once(cached: Cached) -> None:
    """Each epoch has all photographs, each at one of its views, in an order of its own."""
    train = read(*cached(), seed=1)
    seen = {}
    for epoch in range(3):
        train.epoch = epoch
        batches = [train[index] for index in range(len(train))]
        assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 4]
        seen[epoch] = np.concatenate([rows for rows, _ in batches])
        assert Counter(np.concatenate([labels for _, labels in batches]).ravel()) == {0: 12, 1: 12}
        assert len(np.unique(seen[epoch], axis=0)) == 24
    assert not np.array_equal(seen[0], seen[1])


def test_an_epoch_follows_from_seed_and_number(cached: Cached) -> None:
    """An epoch is the same whenever it is asked for, whatever was read before it."""
    folder, entries = cached()
    straight, late = read(folder, entries, seed=1), read(folder, entries[::-1], seed=1)
    for epoch in (0, 1, 2):
        straight.epoch = epoch
        expected = straight[3]
    late.epoch = 2
    np.testing.assert_array_equal(late[3][0], expected[0])
    other = read(folder, entries, seed=2)
    other.epoch = 2
    assert not np.array_equal(other[3][0], expected[0])


def test_views_are_drawn_evenly(cached: Cached) -> None:
    """Over many epochs every view of a photograph is taken about equally often, view 0 among them."""
    train = read(*cached(views=2), seed=3, batch_size=24)
    photograph = train._photographs[0]
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        train.epoch = epoch
        drawn[train._view(photograph)] += 1
    assert sorted(drawn) == [0, 1, 2]
    assert min(drawn.values()) > 70


def test_without_a_seed_the_photographs_are_as_they_are(cached: Cached) -> None:
    """Validation and test read view 0 in the order given."""
    folder, entries = cached()
    rows, labels = read(folder, entries, batch_size=24)[0]
    assert labels.ravel().tolist() == [0, 1] * 12
    np.testing.assert_array_equal(rows, read(folder, entries, batch_size=24)[0][0])
    assert rows.dtype == np.float32


@pytest.mark.reliability("tampered", "a row of features cut short or changed", "training ends with 65 and the cure")
def test_a_damaged_row_is_refused_with_the_cure(cached: Cached) -> None:
    """Training never goes on with a row that was changed; the message says how to have it made again."""
    folder, entries = cached()
    row = folder / "0" / f"{entries[0].sha256}.npz"
    row.write_bytes(row.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"chmod .* dvc repro --single-item --force extract_features"):
        read(folder, entries, batch_size=24)[0]


@pytest.mark.reliability("tampered", "a row of features of another shape", "training ends with 65 and the cure")
def test_a_row_of_another_shape_is_refused_with_the_cure(cached: Cached) -> None:
    """A row that carries the right mark but has more channels than the others is no row of theirs."""
    folder, entries = cached(views=0)
    misshapen = entries[3].sha256
    row = store.to_row(np.ones((4, 4, 9), np.float32), np.ones((2, 2, 9), np.float32))
    recipe = store.recipe_digest({"view": 0})
    store.write_row(folder / "0" / f"{misshapen}.npz", row, recipe=recipe, photo=misshapen)
    with pytest.raises(DataError, match=rf"{misshapen}.*\(2, 2, 9\).*\(2, 2, 8\).*--force extract_features"):
        read(folder, entries, batch_size=24)[0]


def test_to_train_on_gives_both_splits(cached: Cached) -> None:
    """Training photographs are drawn from their views, validation photographs are themselves."""
    folder, entries = cached()
    train, validation = dataset.train_and_validation(folder, entries, part="boundary", batch_size=8, seed=1)
    assert (len(train), len(validation)) == (3, 2)
    assert train[0][0].shape == (8, 4, 4, 8)
    validation_before = validation[0][0]
    validation.epoch = 5
    np.testing.assert_array_equal(validation[0][0], validation_before)
