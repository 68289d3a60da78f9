"""Training: a network fitted to cached views, watched on the validation split, resumed where it was killed."""

import csv
import fcntl
import hashlib
import io
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from transfer import chance, outputs, paths, progress
from transfer.backend import keras, tf
from transfer.errors import BusyError, DataError
from transfer.params import Section
from transfer.views import Views

log = logging.getLogger(__name__)

Epoch = dict[str, float]
History = list[Epoch]

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")

_STATE, _BEST = "state.weights.h5", "best.weights.h5"
_SCORES = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}
_OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "adagrad": keras.optimizers.Adagrad,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


class Params(Section):
    """How a network is trained."""

    optimizer: Literal["sgd", "rmsprop", "adagrad", "adam", "adamw"]
    learning_rate: float = Field(gt=0, le=1)
    batch_size: int = Field(ge=1, le=1024)
    epochs: int = Field(ge=1, le=1000, description="at most")
    patience: int = Field(
        ge=1, le=1000, description="epochs without a better validation loss after which training stops"
    )


def compile_model(model: keras.Model, settings: Params) -> None:
    """Give a network its optimizer, and the loss that fits its output.

    Keras's `loss` has the penalties of L1 and L2 in it; the metric `log_loss` is without them, and is what epochs are
    compared by: smaller weights alone make no better network.
    """
    sigmoid = model.output_shape[-1] == 1
    model.compile(
        optimizer=_OPTIMIZERS[settings.optimizer](learning_rate=settings.learning_rate),
        loss=keras.losses.BinaryCrossentropy() if sigmoid else keras.losses.SparseCategoricalCrossentropy(),
        metrics=[
            (keras.metrics.BinaryAccuracy if sigmoid else keras.metrics.SparseCategoricalAccuracy)("accuracy"),
            (keras.metrics.BinaryCrossentropy if sigmoid else keras.metrics.SparseCategoricalCrossentropy)("log_loss"),
        ],
    )


def validation_loss(model: keras.Model, validation: Views) -> float:
    """A compiled network's log loss on the validation split, what `val_loss` is in a history."""
    with _failures_of(validation):
        return float(model.evaluate(validation, verbose=0, return_dict=True)["log_loss"])


def scratch(stage: str, settings: dict[str, Any], inputs: dict[str, Any]) -> Path:
    """Where a training keeps the state to go on from.

    A folder below the stage's own, one for the same stage, params and inputs, the same version of Keras and the same
    code of ours: anything else would have gone another way from the start.
    """
    code = [outputs.sha256(module) for module in sorted(Path(__file__).parent.glob("*.py"))]
    key = json.dumps([stage, settings, inputs, keras.__version__, code], sort_keys=True)
    return paths.scratch("training", stage, hashlib.sha256(key.encode()).hexdigest()[:16])


def fit(
    model: keras.Model,
    train: Views,
    validation: Views,
    *,
    settings: Params,
    seed: int,
    scratch: Path,
    name: str,
    loss_to_beat: float = math.inf,
) -> History:
    """Train a compiled network and leave it with the weights of its best epoch.

    Each epoch's order, views and dropout follow from the seed and the epoch's number, so a training that was killed
    goes on from its last whole epoch, kept in `scratch`, to the very result it would have had.

    Args:
        model: compiled; changed in place. Its weights stay as they are if no epoch is good enough.
        train: drawn anew each epoch.
        validation: what `val_loss` and `val_accuracy` are of.
        settings: epochs and patience are used here.
        seed: of dropout.
        scratch: folder for the state to go on from; of no other training.
        name: in front of the lines of progress.
        loss_to_beat: a validation loss that an epoch must be below to count as the best.

    Returns:
        An entry an epoch, with `COLUMNS` as keys; the losses are log losses, without penalties.

    Raises:
        DataError: the loss became NaN or infinite, or a row of features is damaged.
        BusyError: another process has this training in hand.
    """
    with _alone(scratch, name):
        initial = model.get_weights()
        history = _restore(model, scratch, name)
        reached = min([loss_to_beat, *(epoch["val_loss"] for epoch in history)])
        early_stopping = _EarlyStopping(history, patience=settings.patience)
        if len(history) < settings.epochs and not early_stopping.has_stopped(model):
            with progress.bar(
                total=settings.epochs * len(train), initial=len(history) * len(train), description=name, unit="batches"
            ) as bar:
                callbacks = [
                    _Draw(train, seed=seed),
                    keras.callbacks.TerminateOnNaN(),
                    keras.callbacks.ModelCheckpoint(
                        scratch / _BEST,
                        monitor="val_log_loss",
                        mode="min",
                        save_best_only=True,
                        save_weights_only=True,
                        initial_value_threshold=reached,
                    ),
                    _Record(history, bar),
                    early_stopping,
                    _Backup(history, scratch),
                ]
                _run(model, train, validation, epochs=settings.epochs, history=history, callbacks=callbacks, name=name)
        if best_epoch(history, loss_to_beat=loss_to_beat):
            model.load_weights(scratch / _BEST)
        else:
            model.set_weights(initial)
    return history


def _run(
    model: keras.Model,
    train: Views,
    validation: Views,
    *,
    epochs: int,
    history: History,
    callbacks: list[keras.callbacks.Callback],
    name: str,
) -> None:
    with _failures_of(train, validation):
        logs = model.fit(
            train,
            validation_data=validation,
            shuffle=False,  # Keras would mix the batches anew, by a chance that no seed of ours reaches
            epochs=epochs,
            initial_epoch=len(history),
            verbose=0,
            callbacks=callbacks,
        ).history
    if not all(math.isfinite(value) for values in logs.values() for value in values):
        raise DataError(
            f"The loss of {name} must stay a finite number. Received: NaN or infinity in epoch {len(history) + 1}. "
            f"Lower `{name}.training.learning_rate`."
        )


def best_epoch(history: History, *, loss_to_beat: float = math.inf) -> Epoch | None:
    """The epoch with the lowest validation loss, the first of equals; None if none is below `loss_to_beat`."""
    best = min(history, key=lambda epoch: epoch["val_loss"], default=None)
    return best if best and best["val_loss"] < loss_to_beat else None


def summary(history: History, *, loss_to_beat: float = math.inf) -> dict[str, float]:
    """What a training came to: its scores in the best epoch, and how many epochs it took.

    Without an epoch that counts there are no scores.
    """
    best = best_epoch(history, loss_to_beat=loss_to_beat)
    if best is None:
        return {"epochs": len(history)}
    scores = {name: best[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    return {"epochs": len(history), "best_epoch": best["epoch"], **scores}


def write_history(path: Path, history: History) -> None:
    """Write a history as CSV, whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    outputs.write_text(path, text.getvalue())


@contextmanager
def _failures_of(*shown: Views) -> Iterator[None]:
    """Raise what went wrong in reading instead of what TensorFlow makes of it."""
    try:
        yield
    except tf.errors.OpError as error:
        raise next((each.failure for each in shown if each.failure), error) from None


@contextmanager
def _alone(scratch: Path, name: str) -> Iterator[None]:
    """Keep other processes out of the folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"Another process, perhaps one that outlived its `dvc repro`, is training {name} in {scratch}. "
                "Wait for it or end it, then run again."
            ) from None
        yield


def _restore(model: keras.Model, scratch: Path, name: str) -> History:
    """Bring back the state after the last whole epoch, if there is one; returns the history up to it."""
    epochs = sorted(scratch.glob("epoch-*"))
    if not epochs:
        return []
    try:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(epochs[-1] / _STATE)
        history: History = json.loads((epochs[-1] / "history.json").read_text(encoding="utf-8"))
        if (epochs[-1] / _BEST).exists():
            shutil.copyfile(epochs[-1] / _BEST, scratch / _BEST)
    except Exception as error:  # noqa: BLE001 (h5py and Keras raise nearly anything on damaged bytes)
        shutil.rmtree(scratch)
        raise DataError(
            f"The state of the training that was cut off must be whole. Received: {epochs[-1]}, {error}. "
            f"It has been removed: run again, and {name} begins anew."
        ) from None
    log.info("%s: goes on after epoch %d.", name, len(history))
    return history


class _Backup(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps weights, optimizer and history after each epoch, all of one epoch or none.

    Keras's BackupAndRestore writes weights and epoch number one after the other: killed between the two, it goes on
    with the weights of one epoch and the number of another.
    """

    def __init__(self, history: History, scratch: Path) -> None:
        super().__init__()
        self._history = history
        self._scratch = scratch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if len(self._history) <= epoch:
            return
        earlier = list(self._scratch.glob("epoch-*"))
        with outputs.whole_folder(self._scratch / f"epoch-{epoch + 1:04}") as folder:
            self.model.save_weights(folder / _STATE)
            if (self._scratch / _BEST).exists():
                shutil.copyfile(self._scratch / _BEST, folder / _BEST)
            outputs.write_json(folder / "history.json", self._history)
        for folder in earlier:
            shutil.rmtree(folder)


class _Draw(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets an epoch's order, views and dropout follow from the seed and the epoch's number."""

    def __init__(self, train: Views, *, seed: int) -> None:
        super().__init__()
        self._train = train
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._train.epoch = epoch
        for layer in self.model._flatten_layers():  # noqa: SLF001 (the only walk that enters nested networks)
            if hasattr(layer, "seed_generator"):
                drawn = chance.digest(self._seed, "dropout", epoch, layer.name)
                layer.seed_generator.state.assign([drawn >> 32, drawn & 0xFFFFFFFF])


class _Record(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds each epoch to the history and shows where the training is."""

    def __init__(self, history: History, bar: Any) -> None:
        super().__init__()
        self._history = history
        self._bar = bar
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not all(math.isfinite(value) for value in logs.values()):
            return
        scores = {name: float(logs[of]) for name, of in _SCORES.items()}
        self._history.append(
            {
                "epoch": epoch + 1,
                **scores,
                "learning_rate": float(self.model.optimizer.learning_rate),
                "seconds": round(time.monotonic() - self._began, 3),
            }
        )
        self._bar.set_postfix_str(
            f"epoch {epoch + 1}: val_loss {scores['val_loss']:.4f}, val_accuracy {scores['val_accuracy']:.4f}",
            refresh=False,
        )


class _EarlyStopping(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Keras's, knowing the epochs before a resumed training began."""

    def __init__(self, history: History, *, patience: int) -> None:
        super().__init__(monitor="val_log_loss", mode="min", patience=patience)
        self._history = history

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        for epoch in self._history:
            super().on_epoch_end(int(epoch["epoch"]) - 1, {"val_log_loss": epoch["val_loss"]})

    def has_stopped(self, model: keras.Model) -> bool:
        """Whether the training had ended when it was cut off."""
        self.set_model(model)
        self.on_train_begin()
        return bool(model.stop_training)
