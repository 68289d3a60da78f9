"""Callbacks: what watches a training, by Keras's names, and knows the epochs before a resumed one began."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfer.network import saving
from transfer.network.backend import keras
from transfer.training.history import LOGS, History, best_by
from transfer.training.settings import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, mode_of


def _replay(on_epoch_end: Callable[[int, dict[str, float]], None], history: History) -> None:
    """Show a callback the epochs before a resumed training began, as Keras logged them."""
    for epoch in history:
        on_epoch_end(int(epoch["epoch"]) - 1, {log: epoch[name] for name, log in LOGS.items()})


class StopEarly(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Keras's EarlyStopping, knowing earlier epochs. Who restores the best weights is `training.fit`."""

    def __init__(self, settings: EarlyStopping, history: History) -> None:
        super().__init__(
            monitor=LOGS[settings.monitor],
            mode=mode_of(settings.monitor),
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
            mode=mode_of(settings.monitor),
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
            saving.save(self._network, self._folder / f"epoch-{epoch + 1:04}.keras")
        elif best_by(looked_at, monitor=self._settings.monitor) is looked_at[-1]:
            saving.save(self._network, self._folder / "best.keras")
