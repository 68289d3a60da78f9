import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.conftest import Cached
from tests.transfer.training.conftest import (
    CHECKPOINT,
    STOPPING,
    assert_same_weights,
    datasets,
    fit_head,
    params,
    train,
    untrained_head,
)
from transfer.features import dataset, store
from transfer.network import heads
from transfer.runtime.errors import DataError
from transfer.training import fit
from transfer.training.history import best_epoch, summary

pytestmark = pytest.mark.long


def test_training_ends_after_patience_epochs_without_improvement(cached: Cached, tmp_path: Path) -> None:
    """After `patience` epochs without a lower validation loss training ends, and a rerun does not go on."""
    features = cached(noise=3.0)
    _, history = train(features, tmp_path / "scratch", epochs=60, patience=3)
    losses = [epoch["val_loss"] for epoch in history]
    assert len(history) < 60
    assert len(history) - 1 - losses.index(min(losses)) == 3
    assert train(features, tmp_path / "scratch", epochs=60, patience=3, until=len(history))[1] == history


def test_the_network_has_the_weights_of_the_best_epoch(cached: Cached, tmp_path: Path) -> None:
    """The weights are those of the epoch with the lowest validation loss, not of the last one."""
    features = cached(noise=3.0)
    head, history = train(features, tmp_path / "scratch", epochs=25, patience=20, learning_rate=0.03)
    best = best_epoch(history, params())
    assert best is not None
    assert best["epoch"] < len(history)
    assert fit.validation_loss(head, datasets(features)[1]) == pytest.approx(best["val_loss"], rel=1e-5)


def test_the_best_epoch_is_best_by_the_monitor(cached: Cached, tmp_path: Path) -> None:
    """With `monitor: val_accuracy` the first epoch of highest accuracy is the best, whatever its loss."""
    stopping = STOPPING | {"monitor": "val_accuracy", "patience": 20}
    _, history = train(cached(noise=3.0), tmp_path / "scratch", epochs=12, early_stopping=stopping)
    best = best_epoch(history, params(early_stopping=stopping))
    assert best == max(history, key=lambda epoch: epoch["val_accuracy"])
    assert best != min(history, key=lambda epoch: epoch["val_loss"])


def test_without_early_stopping_the_last_epoch_is_kept(cached: Cached, tmp_path: Path) -> None:
    """All epochs are trained, and the network has the last one's weights even if they over-fit."""
    features = cached(noise=3.0)
    changes: dict[str, Any] = {"epochs": 20, "learning_rate": 0.03, "early_stopping": None}
    head, history = train(features, tmp_path / "scratch", **changes)
    assert len(history) == 20
    assert history[-1]["val_loss"] > min(epoch["val_loss"] for epoch in history)
    assert fit.validation_loss(head, datasets(features)[1]) == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    assert summary(history, params(**changes))["best_epoch"] == 20


def test_a_network_without_a_best_epoch_keeps_its_weights(cached: Cached, tmp_path: Path) -> None:
    """If no epoch beats the loss to beat, the network is what it was before, and the summary has no scores."""
    head, history = train(cached(), tmp_path / "scratch", loss_to_beat=0.0)
    assert_same_weights(head, untrained_head())
    assert best_epoch(history, params(), loss_to_beat=0.0) is None
    assert summary(history, params(), loss_to_beat=0.0) == {"epochs": 6}


def test_losses_of_a_history_are_without_penalties(cached: Cached, tmp_path: Path) -> None:
    """The losses of a history do not contain the penalties of L1 and L2, however large these are."""
    head = untrained_head(l2=10.0)
    settings = params(epochs=1, optimizer="sgd", learning_rate=1e-9)
    [epoch] = fit_head(head, cached(), tmp_path / "scratch", settings=settings)
    assert float(sum(head.losses)) > 10
    assert max(epoch["loss"], epoch["val_loss"]) < 2


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "owl")])
def test_smoothed_labels_make_a_network_less_confident(
    cached: Cached, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    """With label smoothing the losses of a history stay log losses, and the probabilities are less extreme."""
    features = cached(train=36, classes=classes, noise=0.1)
    validation = datasets(features)[1]
    confidences = []
    for smoothing in (0.0, 0.3):
        settings = params(epochs=10, label_smoothing=smoothing, patience=10)
        head = untrained_head(classes=len(classes))
        history = fit_head(head, features, tmp_path / f"{smoothing}", settings=settings)
        predicted = head.predict(validation, verbose=0)
        confidences.append(np.abs(predicted - 0.5).mean() if len(classes) == 2 else predicted.max(axis=1).mean())
        best = best_epoch(history, settings)
        assert best is not None
        assert fit.validation_loss(head, validation) == pytest.approx(best["val_loss"], rel=1e-4)
    assert confidences[1] < confidences[0] - 0.03


def test_three_classes_are_learned(cached: Cached, tmp_path: Path) -> None:
    """Three classes train with a softmax."""
    features = cached(train=36, classes=("cat", "dog", "owl"))
    history = fit_head(untrained_head(classes=3), features, tmp_path / "scratch", settings=params(epochs=15))
    assert max(epoch["val_accuracy"] for epoch in history) > 0.8


@pytest.mark.reliability(
    "training", "the loss becomes NaN", "65 and the parameter to lower; no incomplete file is written"
)
def test_a_loss_of_nan_fails(cached: Cached, tmp_path: Path) -> None:
    """A loss that is not finite ends the training with the parameter to change, also when it is run again."""
    features = cached()
    for _ in range(2):
        with pytest.raises(DataError, match=r"test\.training\.learning_rate"):
            fit_head(
                untrained_head(l2=1e30),
                features,
                tmp_path / "scratch",
                settings=params(optimizer="sgd", learning_rate=1.0),
            )


@pytest.mark.reliability(
    "tampered", "a row of features truncated or changed", "training ends with 65 and the command to run"
)
def test_a_damaged_row_is_named_with_a_hint(cached: Cached, tmp_path: Path) -> None:
    """A damaged row in the middle of an epoch ends the training with its name, not with TensorFlow's message."""
    folder, entries = cached()
    training, _ = datasets((folder, entries))
    last = training._order()[-1]
    for row in folder.glob(f"*/{last.sha256}.npz"):
        row.write_bytes(row.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"{last.sha256}.*extract_features"):
        train((folder, entries), tmp_path / "scratch")


@pytest.mark.reliability("training", "a single photograph per class", "it trains; the split needs more and reports it")
@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "owl")])
def test_one_photograph_a_class_is_enough_to_train(cached: Cached, tmp_path: Path, classes: tuple[str, ...]) -> None:
    """The smallest dataset is one batch and no special case."""
    features = cached(train=len(classes), validation=len(classes), views=0, classes=classes)
    head = untrained_head(classes=len(classes))
    history = fit_head(head, features, tmp_path / "scratch", settings=params(epochs=2))
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())


@pytest.mark.reliability(
    "training", "photographs of one colour", "if the parameters allow them, it trains to chance level"
)
def test_identical_rows_train_to_chance_level(cached: Cached, tmp_path: Path) -> None:
    """If no row differs, normalization does not divide by zero and the loss is that of chance."""
    folder, entries = cached()
    row = store.to_row(np.ones((4, 4, 8), np.float32), np.ones((2, 2, 8), np.float32))
    for view, recipe in enumerate(store.read_recipes(folder)):
        for path in folder.glob(f"{view}/*.npz"):
            store.write_row(path, row, recipe=store.recipe_digest(recipe), photo=path.stem)
    _, history = train((folder, entries), tmp_path / "scratch")
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())
    assert history[-1]["val_loss"] == pytest.approx(math.log(2), abs=0.2)


@pytest.mark.reliability("training", "a validation split of one class", "it trains; the stage split rejects it before")
def test_a_validation_split_of_one_class_trains(cached: Cached, tmp_path: Path) -> None:
    """Without a photograph of the other class the validation loss is still a number."""
    folder, entries = cached()
    without_dogs = [entry for entry in entries if (entry.split, entry.class_name) != ("validation", "dog")]
    _, history = train((folder, without_dogs), tmp_path / "scratch", epochs=2)
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())


def test_the_required_space_is_what_a_run_writes(cached: Cached, tmp_path: Path) -> None:
    """Two states, the best weights three times, checkpoints and the saved network count; bytes present do not."""
    settings, head = params(model_checkpoint=CHECKPOINT), untrained_head()
    fit.compile_model(head, settings, batches=3)
    numbers, trainable = head.count_params(), sum(math.prod(each.shape) for each in head.trainable_variables)
    # Adam has two moments for each trainable number, a learning rate and a step count
    weights, state = 4 * numbers, 4 * (numbers + 2 * trainable + 1) + 8
    scratch, folder = tmp_path / "scratch", tmp_path / "results"
    space = fit.required_space(head, head, settings=settings, scratch=scratch, results=folder)
    assert space == {scratch: 3 * weights + 2 * state + 5 * state, folder: 5 * state}
    train(cached(), scratch, model_checkpoint=CHECKPOINT)
    remaining = fit.required_space(head, head, settings=settings, scratch=scratch, results=folder)
    assert remaining[scratch] < space[scratch]


def test_pooled_rows_are_read_from_the_disk_once(cached: Cached) -> None:
    """A pooled row stays in memory after it was read, as long as there is space for it."""
    folder, entries = cached(views=0)
    pool = partial(heads.pool, pooling="max")
    training, _ = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5, pool=pool)
    training._free_bytes = 16 * 8 * 4  # bytes of sixteen rows
    first = [training[number] for number in range(len(training))]
    for row in folder.glob("0/*.npz"):
        row.unlink()
    for (rows, _), (again, _) in zip(first[:2], (training[0], training[1]), strict=True):
        np.testing.assert_array_equal(rows, again)
    with pytest.raises(DataError, match="extract_features"):
        training[2]
