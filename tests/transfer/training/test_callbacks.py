from typing import Any

import pytest

from transfer.network.backend import keras
from transfer.training import callbacks
from transfer.training.history import History, best_by
from transfer.training.settings import EarlyStopping, ReduceLROnPlateau

STOPPING: dict[str, Any] = {
    "monitor": "val_loss",
    "mode": "auto",
    "min_delta": 0.0,
    "patience": 2,
    "baseline": None,
    "restore_best_weights": True,
}


def history(*losses: float, **changes: float) -> History:
    """A history with these validation losses."""
    same = {"loss": 0.5, "accuracy": 0.5, "val_accuracy": 0.5} | changes
    return [{"epoch": number, **same, "val_loss": loss} for number, loss in enumerate(losses, start=1)]


def stopped(epochs: History, **changes: Any) -> bool:
    """Whether early stopping would have ended a training after these epochs."""
    settings = EarlyStopping.model_validate(STOPPING | changes)
    return callbacks.StopEarly(settings, epochs).has_stopped(keras.Sequential([keras.layers.Dense(1)]))


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
def test_training_ends_when_patience_does(
    losses: tuple[float, ...], changes: dict[str, Any], *, expected: bool
) -> None:
    """Monitor, min_delta, patience and baseline mean what Keras means by them."""
    assert stopped(history(*losses), **changes) is expected


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "max"), ("accuracy", "min")])
def test_the_worst_epoch_is_not_kept(monitor: str, mode: str) -> None:
    """A mode that does not fit its monitor is refused."""
    with pytest.raises(ValueError, match="the worst epoch"):
        EarlyStopping.model_validate(STOPPING | {"monitor": monitor, "mode": mode})


@pytest.mark.parametrize(
    ("losses", "min_delta", "epoch"),
    [((0.5, 0.4, 0.4, 0.45), 0.0, 2), ((0.5, 0.45, 0.38, 0.35), 0.1, 3), ((0.5,), 0.1, 1)],
)
def test_the_best_epoch_is_the_one_keras_restores(losses: tuple[float, ...], min_delta: float, epoch: int) -> None:
    """The first of equals, and no epoch that is better by less than min_delta."""
    best = best_by(history(*losses), monitor="val_loss", min_delta=min_delta)
    assert best is not None
    assert best["epoch"] == epoch
    assert best_by([], monitor="val_loss") is None


@pytest.mark.parametrize("killed_after", range(1, 9))
@pytest.mark.parametrize("cooldown", [0, 1])
@pytest.mark.parametrize("min_lr", [0.0, 1e-5, 1e-4])
def test_a_resumed_plateau_lowers_the_rate_when_it_would_have(
    *, killed_after: int, cooldown: int, min_lr: float
) -> None:
    """Wherever a training was killed, each epoch's learning rate is an undisturbed training's."""
    plateau: dict[str, Any] = {"factor": 0.3, "patience": 2, "min_delta": 0.0, "cooldown": cooldown, "min_lr": min_lr}
    settings = ReduceLROnPlateau.model_validate({"monitor": "val_loss", **plateau})
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(5e-4), "mse")
    epochs = history(*[0.4] * 10)
    callback = callbacks.LowerOnPlateau(settings, [])
    rates = []
    for epoch in epochs:
        if epoch["epoch"] in (1, killed_after + 1):
            callback = callbacks.LowerOnPlateau(settings, epochs[: int(epoch["epoch"]) - 1])
            callback.set_model(model)
            callback.on_train_begin()
        epoch["learning_rate"] = float(model.optimizer.learning_rate)
        rates.append(epoch["learning_rate"])
        callback.on_epoch_end(int(epoch["epoch"]) - 1, {"val_log_loss": epoch["val_loss"]})
    undisturbed = keras.callbacks.ReduceLROnPlateau(monitor="val_log_loss", mode="min", **plateau)
    model.optimizer.learning_rate = 5e-4
    undisturbed.set_model(model)
    undisturbed.on_train_begin()
    for epoch, rate in enumerate(rates):
        assert float(model.optimizer.learning_rate) == rate
        undisturbed.on_epoch_end(epoch, {"val_log_loss": 0.4})
    assert rates[-1] < rates[0]
