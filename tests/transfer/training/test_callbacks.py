from pathlib import Path
from typing import Any

import pytest

from tests.transfer.conftest import Cached
from tests.transfer.training.conftest import CHECKPOINT, STOPPING, PowerCut, assert_same_weights, history_of, train
from transfer.network import saving
from transfer.network.backend import keras
from transfer.training import callbacks, resume
from transfer.training.settings import EarlyStopping, ReduceLROnPlateau


@pytest.mark.parametrize(
    ("losses", "changes", "expected"),
    [
        ((0.5, 0.4, 0.41, 0.42), {}, True),
        ((0.5, 0.4, 0.41), {}, False),
        ((0.5, 0.4, 0.41, 0.42), {"patience": 3}, False),
        ((0.5, 0.49, 0.48, 0.47), {"min_delta": 0.1}, True),
        ((0.5, 0.49, 0.48, 0.47), {"min_delta": 0.001}, False),
        ((0.5, 0.4, 0.39, 0.4), {"baseline": 0.3}, True),
        ((0.5, 0.25, 0.26, 0.24), {"baseline": 0.3}, False),
        ((0.5, 0.4, 0.3, 0.2), {"monitor": "val_accuracy", "mode": "max"}, True),
        ((0.5, 0.4, 0.3, 0.2), {"monitor": "loss", "mode": "min"}, True),
    ],
)
def test_early_stopping_counts_the_epochs_of_a_history(
    losses: tuple[float, ...], changes: dict[str, Any], *, expected: bool
) -> None:
    """Monitor, min_delta, patience and baseline mean for earlier epochs what Keras means by them."""
    settings = EarlyStopping.model_validate(STOPPING | {"patience": 2} | changes)
    stopping = callbacks.ResumableEarlyStopping(settings, history_of(*losses))
    assert stopping.has_stopped(keras.Sequential([keras.layers.Dense(1)])) is expected


@pytest.mark.parametrize("killed_after", range(1, 9))
@pytest.mark.parametrize("cooldown", [0, 1])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5, 1e-4])
def test_a_resumed_plateau_lowers_the_rate_in_the_same_epochs(
    *, killed_after: int, cooldown: int, min_lr: float
) -> None:
    """In whichever epoch a run was killed, each epoch has the learning rate of an undisturbed run."""
    plateau: dict[str, Any] = {"factor": 0.3, "patience": 2, "min_delta": 0.0, "cooldown": cooldown, "min_lr": min_lr}
    settings = ReduceLROnPlateau.model_validate({"monitor": "val_loss", **plateau})
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(5e-4), "mse")
    epochs = history_of(*[0.4] * 10)
    callback = callbacks.ResumableReduceLROnPlateau(settings, [])
    rates = []
    for epoch in epochs:
        if epoch["epoch"] in (1, killed_after + 1):
            callback = callbacks.ResumableReduceLROnPlateau(settings, epochs[: int(epoch["epoch"]) - 1])
            callback.set_model(model)
            callback.on_train_begin()
        epoch["learning_rate"] = float(model.optimizer.learning_rate)
        rates.append(epoch["learning_rate"])
        callback.on_epoch_end(int(epoch["epoch"]) - 1, {"val_log_loss": epoch["val_loss"]})
    undisturbed = keras.callbacks.ReduceLROnPlateau(monitor="val_log_loss", mode="min", **plateau)
    model.optimizer.learning_rate = 5e-4
    undisturbed.set_model(model)
    undisturbed.on_train_begin()
    for index, rate in enumerate(rates):
        assert float(model.optimizer.learning_rate) == rate
        undisturbed.on_epoch_end(index, {"val_log_loss": 0.4})
    assert rates[-1] < rates[0]


@pytest.mark.parametrize(
    ("best_only", "names"), [(False, ["epoch-0002", "epoch-0004", "epoch-0006"]), (True, ["best"])]
)
def test_checkpoints_are_saved_every_second_epoch(
    cached: Cached, tmp_path: Path, *, best_only: bool, names: list[str]
) -> None:
    """Every second epoch's network is saved, or the best of those, also by a run that was killed in between."""
    features = cached()
    checkpoint = {"model_checkpoint": CHECKPOINT | {"save_best_only": best_only}}
    with pytest.raises(Exception, match=PowerCut.__name__):
        train(features, tmp_path, until=3, **checkpoint)
    head, history = train(features, tmp_path, **checkpoint)
    folder = resume.checkpoints_folder(tmp_path)
    assert sorted(file.stem for file in folder.glob("*.keras")) == names
    assert min(history, key=lambda epoch: epoch["val_loss"])["epoch"] == 6
    assert_same_weights(saving.load(folder / f"{names[-1]}.keras"), head)
