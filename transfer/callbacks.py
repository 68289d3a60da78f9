"""Callbacks: what watches a training, by Keras's names, and knows the epochs before a resumed one began."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from transfer import models
from transfer.backend import keras
from transfer.params import Section

Epoch = dict[str, float]
History = list[Epoch]
Monitor = Literal["loss", "accuracy", "val_loss", "val_accuracy"]

# What Keras logs under each column of a history: its own `loss` has the penalties of L1 and L2 and smoothed labels in
# it, the metric `log_loss` has not, and is what epochs are compared by. Smaller weights alone make no better network.
LOGS = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}


def _mode(monitor: Monitor) -> str:
    return "max" if monitor.endswith("accuracy") else "min"


def _is_better(value: float, best: float, *, monitor: Monitor, min_delta: float) -> bool:
    return value > best + min_delta if _mode(monitor) == "max" else value < best - min_delta


class EarlyStopping(Section):
    """When training ends before its last epoch, and which epoch's weights it leaves."""

    monitor: Monitor
    mode: Literal["auto", "min", "max"] = Field(description="of the monitor: whether less or more is better")
    min_delta: float = Field(ge=0, description="a smaller change for the better is none")
    patience: int = Field(ge=1, le=1000, description="epochs that may pass without one")
    baseline: float | None = Field(description="a value that must be reached, else epochs count as without change")
    restore_best_weights: bool = Field(description="those of the best epoch instead of the last one's")

    @model_validator(mode="after")
    def _mode_fits(self) -> "EarlyStopping":
        if self.mode not in ("auto", _mode(self.monitor)):
            raise ValueError(
                f"`mode` must be `auto` or `{_mode(self.monitor)}` for `monitor: {self.monitor}`. "
                f"Received: {self.mode!r}, which would keep the worst epoch."
            )
        return self


class ReduceLROnPlateau(Section):
    """When the learning rate is lowered, and by how much."""

    monitor: Monitor
    factor: float = Field(gt=0, lt=1, description="by which the learning rate is multiplied")
    patience: int = Field(ge=1, le=1000, description="epochs without a change for the better before that")
    min_delta: float = Field(ge=0)
    cooldown: int = Field(ge=0, le=1000, description="epochs after that which do not count")
    min_lr: float = Field(ge=0, description="the learning rate falls no lower")


class ModelCheckpoint(Section):
    """Which epochs' networks are kept as files, besides the one that the training leaves."""

    monitor: Monitor
    save_best_only: bool = Field(description="of those looked at, keep the best alone")
    save_freq: int = Field(ge=1, le=1000, description="epochs from one that is looked at to the next")


def best(history: History, *, monitor: Monitor, min_delta: float = 0.0) -> Epoch | None:
    """The epoch whose weights Keras's EarlyStopping restores: the last that was better than the best before it."""
    found: Epoch | None = None
    for epoch in history:
        if found is None or _is_better(epoch[monitor], found[monitor], monitor=monitor, min_delta=min_delta):
            found = epoch
    return found


def _replay(on_epoch_end: Callable[[int, dict[str, float]], None], history: History) -> None:
    """Show a callback the epochs before a resumed training began, as Keras logged them."""
    for epoch in history:
        on_epoch_end(int(epoch["epoch"]) - 1, {log: epoch[name] for name, log in LOGS.items()})


class StopEarly(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Keras's EarlyStopping, knowing earlier epochs. Who restores the best weights is `training.fit`."""

    def __init__(self, settings: EarlyStopping, history: History) -> None:
        super().__init__(
            monitor=LOGS[settings.monitor],
            mode=_mode(settings.monitor),
            min_delta=settings.min_delta,
            patience=settings.patience,
            baseline=settings.baseline,
        )
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin as if the earlier epochs had just been seen."""
        super().on_train_begin(logs)
        _replay(super().on_epoch_end, self._history)

    def has_stopped(self, model: keras.Model) -> bool:
        """Whether the training had ended when it was cut off."""
        self.set_model(model)
        model.stop_training = False  # Keras sets it when training begins
        self.on_train_begin()
        return bool(model.stop_training)


class LowerOnPlateau(keras.callbacks.ReduceLROnPlateau):  # type: ignore[misc]
    """Keras's ReduceLROnPlateau, knowing earlier epochs."""

    def __init__(self, settings: ReduceLROnPlateau, history: History) -> None:
        super().__init__(
            monitor=LOGS[settings.monitor],
            mode=_mode(settings.monitor),
            **settings.model_dump(exclude={"monitor"}),
        )
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin as if the earlier epochs had just been seen; the learning rate is as they left it already."""
        super().on_train_begin(logs)
        reached = float(self.model.optimizer.learning_rate)
        if self._history:  # Keras counts differently once the rate is at its lowest
            self.model.optimizer.learning_rate = self._history[0]["learning_rate"]
        _replay(super().on_epoch_end, self._history)
        self.model.optimizer.learning_rate = reached


class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras's ModelCheckpoint for a network that holds the trained one, written as this project writes networks.

    Args:
        settings: which epochs are kept.
        history: what the epochs came to; the last entry is the one that ends.
        network: what is kept.
        folder: for `epoch-0005.keras`, or `best.keras`.
    """

    def __init__(self, settings: ModelCheckpoint, history: History, network: keras.Model, folder: Path) -> None:
        super().__init__()
        self._settings = settings
        self._history = history
        self._network = network
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the network if this epoch is one of those."""
        looked_at = [each for each in self._history if not each["epoch"] % self._settings.save_freq]
        if not looked_at or looked_at[-1]["epoch"] != epoch + 1:
            return
        if not self._settings.save_best_only:
            models.save(self._network, self._folder / f"epoch-{epoch + 1:04}.keras")
        elif best(looked_at, monitor=self._settings.monitor) is looked_at[-1]:
            models.save(self._network, self._folder / "best.keras")
