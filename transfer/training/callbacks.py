"""Callbacks: Keras's, which also count the epochs before a resumed run, and those that make a run resumable."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfer.features.dataset import Dataset
from transfer.network import saving
from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.training import optimizers, resume
from transfer.training.history import KERAS_LOGS, History, best_by_monitor, best_epoch
from transfer.training.settings import EarlyStopping, ModelCheckpoint, Params, ReduceLROnPlateau, mode_of


def _replay(on_epoch_end: Callable[[int, dict[str, float]], None], history: History) -> None:
    """Call a callback for the epochs before a resumed run, with the logs that Keras gave it then."""
    for epoch in history:
        on_epoch_end(int(epoch["epoch"]) - 1, {log: epoch[score] for score, log in KERAS_LOGS.items()})


class ResumableEarlyStopping(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Keras's EarlyStopping, which counts earlier epochs too. It restores no weights: `fit` does."""

    def __init__(self, settings: EarlyStopping, history: History) -> None:
        super().__init__(
            monitor=KERAS_LOGS[settings.monitor],
            mode=mode_of(settings.monitor),
            min_delta=settings.min_delta,
            patience=settings.patience,
            baseline=settings.baseline,
        )
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        """Start from the state after the earlier epochs."""
        super().on_train_begin(logs)
        _replay(super().on_epoch_end, self._history)

    def has_stopped(self, model: keras.Model) -> bool:
        """Return whether the earlier epochs already end the training."""
        self.set_model(model)
        model.stop_training = False  # Keras sets it only when training begins
        self.on_train_begin()
        return bool(model.stop_training)


class ResumableReduceLROnPlateau(keras.callbacks.ReduceLROnPlateau):  # type: ignore[misc]
    """Keras's ReduceLROnPlateau, which counts earlier epochs too."""

    def __init__(self, settings: ReduceLROnPlateau, history: History) -> None:
        super().__init__(
            monitor=KERAS_LOGS[settings.monitor],
            mode=mode_of(settings.monitor),
            **settings.model_dump(exclude={"monitor"}),
        )
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        """Start from the state after the earlier epochs; the optimizer has their learning rate already."""
        super().on_train_begin(logs)
        resumed_rate = optimizers.learning_rate(self.model.optimizer)
        if self._history:  # Keras counts epochs differently once the rate is at its minimum
            self.model.optimizer.learning_rate = self._history[0]["learning_rate"]
        _replay(super().on_epoch_end, self._history)
        self.model.optimizer.learning_rate = resumed_rate


class SeedEpochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Derive an epoch's order, views and dropout from the seed and the epoch's number."""

    def __init__(self, train: Dataset, *, seed: int) -> None:
        super().__init__()
        self._train = train
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch of the dataset and the state of every layer's random generator."""
        self._train.epoch = epoch
        for layer in self.model._flatten_layers():  # noqa: SLF001 (Keras has no public walk of nested networks)
            if hasattr(layer, "seed_generator"):
                state = seeding.digest(self._seed, "dropout", epoch, layer.name)
                layer.seed_generator.state.assign([state >> 32, state & 0xFFFFFFFF])


class RecordHistory(keras.callbacks.Callback):  # type: ignore[misc]
    """Add each epoch with finite scores to the history, and update the progress bar."""

    def __init__(self, history: History, bar: Any) -> None:
        super().__init__()
        self._history = history
        self._bar = bar
        self._started = 0.0
        self._learning_rate = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time and the learning rate of the epoch's first batch."""
        self._started = time.monotonic()
        self._learning_rate = optimizers.learning_rate(self.model.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count a batch."""
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the epoch."""
        if not all(math.isfinite(value) for value in logs.values()):
            return
        scores = {score: float(logs[log]) for score, log in KERAS_LOGS.items()}
        seconds = round(time.monotonic() - self._started, 3)
        self._history.append({"epoch": epoch + 1, **scores, "learning_rate": self._learning_rate, "seconds": seconds})
        self._bar.set_postfix_str(
            f"epoch {epoch + 1}: val_loss {scores['val_loss']:.4f}, val_accuracy {scores['val_accuracy']:.4f}",
            refresh=False,
        )


class SaveBestWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Save the weights of the best epoch so far, see `history.best_epoch`.

    Args:
        history: the epochs; the last one is the epoch that ends.
        settings: of the run.
        scratch: the run's scratch folder.
        loss_to_beat: see `history.best_epoch`.
    """

    def __init__(self, history: History, settings: Params, scratch: Path, *, loss_to_beat: float) -> None:
        super().__init__()
        self._history = history
        self._settings = settings
        self._scratch = scratch
        self._loss_to_beat = loss_to_beat

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save the weights if this epoch is the best so far."""
        best = best_epoch(self._history, self._settings, loss_to_beat=self._loss_to_beat)
        if best and best["epoch"] == epoch + 1:
            resume.write_best(self._scratch, self.model)


class SaveCheckpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Keras's ModelCheckpoint, for a network that contains the trained one, with the bytes of `saving.save`.

    Args:
        settings: which epochs are saved.
        history: the epochs; the last one is the epoch that ends.
        network: returns the network to save.
        folder: where `epoch-0005.keras` or `best.keras` are written.
    """

    def __init__(
        self, settings: ModelCheckpoint, history: History, network: Callable[[], keras.Model], folder: Path
    ) -> None:
        super().__init__()
        self._settings = settings
        self._history = history
        self._network = network
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save the network if this epoch is due and, with `save_best_only`, the best of those due."""
        due = [entry for entry in self._history if not entry["epoch"] % self._settings.save_freq]
        if not due or due[-1]["epoch"] != epoch + 1:
            return
        if not self._settings.save_best_only:
            saving.save(self._network(), self._folder / f"epoch-{epoch + 1:04}.keras")
        elif best_by_monitor(due, self._settings.monitor) is due[-1]:
            saving.save(self._network(), self._folder / "best.keras")


class BackUpEpochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Back up weights, optimizer and history after each epoch, atomically.

    Keras's BackupAndRestore writes the weights and the epoch's number one after the other: a run killed between the
    two goes on with the weights of one epoch and the number of another.
    """

    def __init__(self, history: History, scratch: Path) -> None:
        super().__init__()
        self._history = history
        self._scratch = scratch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Back up the epoch if it is in the history, which an epoch with NaN is not."""
        if len(self._history) > epoch:
            resume.back_up(self._scratch, self.model, self._history)
