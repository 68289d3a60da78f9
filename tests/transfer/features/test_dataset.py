from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.conftest import Cached
from transfer.features import dataset, store
from transfer.runtime.errors import DataError


def read(folder: Path, entries: list, *, seed: int | None = None, batch_size: int = 5) -> dataset.FeatureDataset:
    """Return the dataset of the training split."""
    train = [entry for entry in entries if entry.split == "train"]
    return dataset.FeatureDataset(
        folder, train, classes=["cat", "dog"], part="pooled", batch_size=batch_size, seed=seed
    )


def test_an_epoch_has_every_photograph_once(cached: Cached) -> None:
    """Each epoch has one view of every photograph, in another order than the previous one."""
    train = read(*cached(), seed=1)
    epochs = {}
    for epoch in range(3):
        train.epoch = epoch
        batches = [train[index] for index in range(len(train))]
        assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 4]
        epochs[epoch] = np.concatenate([rows for rows, _ in batches])
        assert Counter(np.concatenate([labels for _, labels in batches]).ravel()) == {0: 12, 1: 12}
        assert len(np.unique(epochs[epoch], axis=0)) == 24
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_batch_follows_from_seed_epoch_and_index(cached: Cached) -> None:
    """A batch does not depend on what was read before it, nor on the order of the manifest."""
    folder, entries = cached()
    in_turn, at_once = read(folder, entries, seed=1), read(folder, entries[::-1], seed=1)
    for epoch in (0, 1, 2):
        in_turn.epoch = epoch
        expected = in_turn[3]
    at_once.epoch = 2
    np.testing.assert_array_equal(at_once[3][0], expected[0])
    other = read(folder, entries, seed=2)
    other.epoch = 2
    assert not np.array_equal(other[3][0], expected[0])


def test_views_are_drawn_uniformly(cached: Cached) -> None:
    """Over many epochs every view of a photograph, view 0 included, is drawn about equally often."""
    train = read(*cached(views=2), seed=3, batch_size=24)
    photograph = train._photographs[0]
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        train.epoch = epoch
        drawn[train._view(photograph)] += 1
    assert sorted(drawn) == [0, 1, 2]
    assert min(drawn.values()) > 70


def test_without_a_seed_the_order_and_view_0_are_kept(cached: Cached) -> None:
    """Datasets for validation and test have view 0 of each photograph, in the order of the manifest."""
    folder, entries = cached()
    rows, labels = read(folder, entries, batch_size=24)[0]
    assert labels.ravel().tolist() == [0, 1] * 12
    np.testing.assert_array_equal(rows, read(folder, entries, batch_size=24)[0][0])
    assert rows.dtype == np.float32


@pytest.mark.reliability(
    "tampered", "a row of features truncated or changed", "training ends with 65 and the command to run"
)
def test_a_damaged_row_is_an_error_with_the_command_to_run(cached: Cached) -> None:
    """Training does not continue with a changed row; the message has the command that makes it again."""
    folder, entries = cached()
    row = folder / "0" / f"{entries[0].sha256}.npz"
    row.write_bytes(row.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"chmod .* dvc repro --single-item --force extract_features"):
        read(folder, entries, batch_size=24)[0]


@pytest.mark.reliability(
    "tampered", "a row of features of another shape", "training ends with 65 and the command to run"
)
def test_a_row_of_another_shape_is_an_error_with_the_command_to_run(cached: Cached) -> None:
    """A row with the right mark but more channels than the other rows is damaged."""
    folder, entries = cached(views=0)
    misshapen = entries[3].sha256
    row = store.to_row(np.ones((4, 4, 9), np.float32), np.ones((2, 2, 9), np.float32))
    recipe = store.recipe_digest({"view": 0})
    store.write_row(folder / "0" / f"{misshapen}.npz", row, recipe=recipe, photo=misshapen)
    with pytest.raises(DataError, match=rf"{misshapen}.*\(2, 2, 9\).*\(2, 2, 8\).*--force extract_features"):
        read(folder, entries, batch_size=24)[0]


def test_training_and_validation_splits_have_datasets(cached: Cached) -> None:
    """The validation dataset is the same in every epoch, and both have the batch size asked for."""
    folder, entries = cached()
    train, validation = dataset.train_and_validation(folder, entries, part="boundary", batch_size=8, seed=1)
    assert (len(train), len(validation)) == (3, 2)
    assert train[0][0].shape == (8, 4, 4, 8)
    first = validation[0][0]
    validation.epoch = 5
    np.testing.assert_array_equal(validation[0][0], first)


def test_several_devices_get_equal_shares(cached: Cached) -> None:
    """Batches for training divide among the devices; the few photographs that do not are left out of an epoch."""
    folder, entries = cached(train=24, validation=7)
    train, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=11, seed=1, devices=5)
    assert [len(train[index][1]) for index in range(len(train))] == [10, 10]
    assert sum(len(validation[index][1]) for index in range(len(validation))) == 7
