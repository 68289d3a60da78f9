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
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from transfer.features.dataset import Dataset
from transfer.network import saving
from transfer.network.backend import keras, tf
from transfer.runtime import disk, files, paths, progress, seeding
from transfer.runtime.errors import DataError, LockedError
from transfer.runtime.params import Section
from transfer.training import callbacks, optimizers
from transfer.training.history import LOGS, Epoch, History, best_by
from transfer.training.settings import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

log = logging.getLogger(__name__)

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")

_STATE, _BEST = "state.npz", "best.npz"  # no HDF5: where the disk is full it ends the process with a segmentation fault
_CHECKPOINTS = "checkpoints"


class Params(Section):
    """How a network is trained."""

    optimizer: optimizers.Name
    optimizer_settings: optimizers.Settings
    learning_rate: float = Field(gt=0, le=1)
    learning_rate_schedule: optimizers.Schedule
    reduce_lr_on_plateau: ReduceLROnPlateau | None
    label_smoothing: float = Field(ge=0, lt=1, description="how far the labels are drawn towards their mean")
    batch_size: int = Field(ge=1, le=1024)
    epochs: int = Field(ge=1, le=1000, description="at most")
    early_stopping: EarlyStopping | None
    model_checkpoint: ModelCheckpoint | None

    @model_validator(mode="after")
    def _without_contradiction(self) -> "Params":
        optimizers.check_settings(self.optimizer, self.optimizer_settings)
        plateau, stopping, checkpoint = self.reduce_lr_on_plateau, self.early_stopping, self.model_checkpoint
        if plateau and self.learning_rate_schedule != "constant":
            raise ValueError(
                "`reduce_lr_on_plateau` needs `learning_rate_schedule: constant`. "
                f"Received: {self.learning_rate_schedule!r}, which sets the learning rate itself. Change "
                "one of the two."
            )
        if plateau and stopping and plateau.monitor == stopping.monitor and plateau.patience >= stopping.patience:
            raise ValueError(
                "`reduce_lr_on_plateau.patience` must be less than `early_stopping.patience`, or training ends before "
                f"the learning rate is lowered. Received: {plateau.patience} and {stopping.patience}"
            )
        if checkpoint and checkpoint.save_freq > self.epochs:
            raise ValueError(
                "`model_checkpoint.save_freq` must be at most `epochs`, or nothing is kept. "
                f"Received: {checkpoint.save_freq} and {self.epochs}"
            )
        return self


def compile_model(model: keras.Model, settings: Params, *, batches: int) -> None:
    """Give a network its optimizer, and the loss that fits its output.

    Keras's `loss` has the penalties of L1 and L2 and the smoothed labels in it; the metric `log_loss` is without them.

    Args:
        model: changed in place.
        settings: optimizer, learning rate, schedule, label smoothing and epochs are used here.
        batches: an epoch has.
    """
    sigmoid = model.output_shape[-1] == 1
    model.compile(
        optimizer=optimizers.build(
            settings.optimizer,
            settings.optimizer_settings,
            learning_rate=settings.learning_rate,
            schedule=settings.learning_rate_schedule,
            steps=settings.epochs * batches,
        ),
        loss=_loss(model.output_shape[-1], settings.label_smoothing),
        metrics=[
            (keras.metrics.BinaryAccuracy if sigmoid else keras.metrics.SparseCategoricalAccuracy)("accuracy"),
            (keras.metrics.BinaryCrossentropy if sigmoid else keras.metrics.SparseCategoricalCrossentropy)("log_loss"),
        ],
    )
    model.optimizer.build(model.trainable_variables)


def _loss(units: int, label_smoothing: float) -> Callable[[Any, Any], Any]:
    """Log loss of an output of so many units, with smoothed labels; labels are the classes' numbers."""
    if units == 1:
        loss: Callable[[Any, Any], Any] = keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing)
        return loss

    def categorical_crossentropy(numbers: Any, probabilities: Any) -> Any:
        labels = keras.ops.one_hot(keras.ops.cast(numbers[..., 0], "int32"), units)
        return keras.losses.categorical_crossentropy(labels, probabilities, label_smoothing=label_smoothing)

    return categorical_crossentropy


def validation_loss(model: keras.Model, validation: Dataset) -> float:
    """A compiled network's log loss on the validation split, what `val_loss` is in a history."""
    with _failures_of(validation):
        return float(model.evaluate(validation, verbose=0, return_dict=True)["log_loss"])


def scratch(stage: str, settings: dict[str, Any], inputs: dict[str, Any]) -> Path:
    """Where a training keeps the state to go on from.

    A folder below the stage's own, one for the same stage, params and inputs, the same version of Keras and the same
    code of ours: anything else would have gone another way from the start.
    """
    code = [files.sha256(module) for module in sorted(Path(__file__).parent.glob("*.py"))]
    key = json.dumps([stage, settings, inputs, keras.__version__, code], sort_keys=True)
    return paths.scratch("training", stage, hashlib.sha256(key.encode()).hexdigest()[:16])


def needs(
    trained: keras.Model, whole: keras.Model, *, settings: Params, scratch: Path, results: Path
) -> dict[Path, int]:
    """About how many bytes a training is yet to take, at most.

    Args:
        trained: the compiled network; what is kept of an epoch is its state and the best weights so far.
        whole: the network that is handed on.
        settings: how many checkpoints are kept follows from it.
        scratch: where epochs are kept, the last one until the next is whole; what lies there is not needed again.
        results: where the network and its checkpoints go.
    """
    best, state, network = (
        saving.bytes_of_variables(trained.weights),
        saving.size_in_bytes(trained),
        saving.size_in_bytes(whole),
    )
    checkpoint = settings.model_checkpoint
    kept = 0 if not checkpoint else 1 if checkpoint.save_best_only else settings.epochs // checkpoint.save_freq
    epochs = best + 2 * (state + best) + (kept + 2 if kept else 0) * network
    there = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
    return {scratch: max(0, epochs - there), results: (kept + 2) * network}


def fit(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    settings: Params,
    seed: int,
    scratch: Path,
    name: str,
    loss_to_beat: float = math.inf,
    whole: keras.Model | None = None,
) -> History:
    """Train a compiled network and leave it with the weights of the epoch that is handed on.

    Each epoch's order, views and dropout follow from the seed and the epoch's number, so a training that was killed
    goes on from its last whole epoch, kept in `scratch`, to the very result it would have had.

    Args:
        model: compiled; changed in place. Its weights stay as they are if no epoch is good enough.
        train: drawn anew each epoch.
        validation: what `val_loss` and `val_accuracy` are of.
        settings: epochs and callbacks are used here.
        seed: of dropout.
        scratch: folder for the state to go on from; of no other training.
        name: in front of the lines of progress.
        loss_to_beat: a validation loss that an epoch must be below to count.
        whole: the network that checkpoints keep, which has the layers of `model` in it; by default `model` itself.

    Returns:
        An entry an epoch, with `COLUMNS` as keys; the losses are log losses, without penalties.

    Raises:
        DataError: the loss became NaN or infinite, or a row of features is damaged.
        BusyError: another process has this training in hand.
    """
    with _alone(scratch, name):
        initial = model.get_weights()
        history = _restore(model, scratch, name)
        stopping = callbacks.StopEarly(settings.early_stopping, history) if settings.early_stopping else None
        if len(history) < settings.epochs and not (stopping and stopping.has_stopped(model)):
            with progress.bar(
                total=settings.epochs * len(train), initial=len(history) * len(train), description=name, unit="batches"
            ) as bar:
                watching = [_Draw(train, seed=seed), keras.callbacks.TerminateOnNaN(), _Record(history, bar)]
                watching.append(_Keep(history, settings, scratch, loss_to_beat=loss_to_beat))
                if settings.model_checkpoint:
                    folder = scratch / _CHECKPOINTS
                    watching.append(callbacks.Checkpoints(settings.model_checkpoint, history, whole or model, folder))
                if settings.reduce_lr_on_plateau:
                    watching.append(callbacks.LowerOnPlateau(settings.reduce_lr_on_plateau, history))
                if stopping:
                    watching.append(stopping)
                watching.append(_Backup(history, scratch))
                _run(model, train, validation, epochs=settings.epochs, history=history, watching=watching, name=name)
        if best_epoch(history, settings, loss_to_beat=loss_to_beat):
            model.set_weights(_read_arrays(scratch / _BEST))
        else:
            model.set_weights(initial)
    return history


def _run(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    epochs: int,
    history: History,
    watching: list[keras.callbacks.Callback],
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
            callbacks=watching,
        ).history
    if not all(math.isfinite(value) for values in logs.values() for value in values):
        raise DataError(
            f"The loss of {name} must stay a finite number. Received: NaN or infinity in epoch {len(history) + 1}. "
            f"Lower `{name}.training.learning_rate`. With the params that it had, `dvc repro` brings an earlier model "
            "back without training."
        )


def best_epoch(history: History, settings: Params, *, loss_to_beat: float = math.inf) -> Epoch | None:
    """The epoch that is handed on.

    With `early_stopping.restore_best_weights` the best by its monitor, else the last. None if it has no validation
    loss below `loss_to_beat`.
    """
    stopping = settings.early_stopping
    if not stopping or not stopping.restore_best_weights:
        return next((epoch for epoch in history[-1:] if epoch["val_loss"] < loss_to_beat), None)
    counting = [epoch for epoch in history if epoch["val_loss"] < loss_to_beat]
    return best_by(counting, monitor=stopping.monitor, min_delta=stopping.min_delta)


def summary(history: History, settings: Params, *, loss_to_beat: float = math.inf) -> dict[str, float]:
    """What a training came to: the scores of the epoch that is handed on, and how many epochs it took.

    Without an epoch that counts there are no scores.
    """
    best = best_epoch(history, settings, loss_to_beat=loss_to_beat)
    if best is None:
        return {"epochs": len(history)}
    scores = {name: best[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    return {"epochs": len(history), "best_epoch": best["epoch"], **scores}


def write(
    file: Path, network: keras.Model, history: History, *, metrics: dict[str, float], card: dict[str, Any]
) -> None:
    """Write what a training leaves: the network with its model.json and, beside it, history.csv and metrics.json."""
    write_history(file.with_name("history.csv"), history)
    files.write_json(file.with_name("metrics.json"), metrics)
    saving.write(file, network, card)


def write_checkpoints(folder: Path, scratch: Path) -> None:
    """Hand on the networks that were kept on the way, whole, with a table of them: `checkpoints.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "sha256"])
    with files.atomic_folder(folder) as beside:
        for kept in sorted((scratch / _CHECKPOINTS).glob("*.keras")):
            shutil.copyfile(kept, beside / kept.name)
            writer.writerow([kept.name, files.sha256(kept)])
        (beside / "checkpoints.csv").write_text(text.getvalue(), encoding="utf-8", newline="")


def write_history(path: Path, history: History) -> None:
    """Write a history as CSV, whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_text(path, text.getvalue())


@contextmanager
def _failures_of(*shown: Dataset) -> Iterator[None]:
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
            raise LockedError(
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
        _load_state(model, _read_arrays(epochs[-1] / _STATE))
        history: History = json.loads((epochs[-1] / "history.json").read_text(encoding="utf-8"))
        if (epochs[-1] / _BEST).exists():
            shutil.copyfile(epochs[-1] / _BEST, scratch / _BEST)
    except Exception as error:  # noqa: BLE001 (NumPy and zipfile raise nearly anything on damaged bytes)
        disk.reraise_disk_error(error, scratch)
        shutil.rmtree(scratch)
        raise DataError(
            f"The state of the training that was cut off must be whole. Received: {epochs[-1]}, {error}. "
            f"It has been removed: run again, and {name} begins anew."
        ) from None
    log.info("%s: goes on after epoch %d.", name, len(history))
    return history


def _state(model: keras.Model) -> list[NDArray[Any]]:
    """All that a training goes on from: the weights, then what the optimizer remembers."""
    return [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]


def _load_state(model: keras.Model, state: list[NDArray[Any]]) -> None:
    count = len(model.weights)
    model.set_weights(state[:count])
    for variable, value in zip(model.optimizer.variables, state[count:], strict=True):
        variable.assign(value)


def _write_arrays(path: Path, arrays: list[NDArray[Any]]) -> None:
    with disk.space_for({path.parent: sum(array.nbytes for array in arrays)}), path.open("wb") as file:
        np.savez(file, *arrays)


def _read_arrays(path: Path) -> list[NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        names = [f"arr_{number}.npy" for number in range(len(archive.namelist()))]
        return [np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False) for name in names]


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
        with files.atomic_folder(self._scratch / f"epoch-{epoch + 1:04}") as folder:
            _write_arrays(folder / _STATE, _state(self.model))
            if (self._scratch / _BEST).exists():
                shutil.copyfile(self._scratch / _BEST, folder / _BEST)
            files.write_json(folder / "history.json", self._history)
        for folder in earlier:
            shutil.rmtree(folder)


class _Draw(keras.callbacks.Callback):  # type: ignore[misc]
    """Lets an epoch's order, views and dropout follow from the seed and the epoch's number."""

    def __init__(self, train: Dataset, *, seed: int) -> None:
        super().__init__()
        self._train = train
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._train.epoch = epoch
        for layer in self.model._flatten_layers():  # noqa: SLF001 (the only walk that enters nested networks)
            if hasattr(layer, "seed_generator"):
                drawn = seeding.digest(self._seed, "dropout", epoch, layer.name)
                layer.seed_generator.state.assign([drawn >> 32, drawn & 0xFFFFFFFF])


class _Keep(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch that would be handed on if it were the last."""

    def __init__(self, history: History, settings: Params, scratch: Path, *, loss_to_beat: float) -> None:
        super().__init__()
        self._history = history
        self._settings = settings
        self._scratch = scratch
        self._loss_to_beat = loss_to_beat

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        best = best_epoch(self._history, self._settings, loss_to_beat=self._loss_to_beat)
        if best and best["epoch"] == epoch + 1:
            _write_arrays(self._scratch / _BEST, self.model.get_weights())


class _Record(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds each epoch to the history and shows where the training is."""

    def __init__(self, history: History, bar: Any) -> None:
        super().__init__()
        self._history = history
        self._bar = bar
        self._began = 0.0
        self._rate = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()
        self._rate = float(self.model.optimizer.learning_rate)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not all(math.isfinite(value) for value in logs.values()):
            return
        scores = {name: float(logs[of]) for name, of in LOGS.items()}
        self._history.append(
            {
                "epoch": epoch + 1,
                **scores,
                "learning_rate": self._rate,
                "seconds": round(time.monotonic() - self._began, 3),
            }
        )
        self._bar.set_postfix_str(
            f"epoch {epoch + 1}: val_loss {scores['val_loss']:.4f}, val_accuracy {scores['val_accuracy']:.4f}",
            refresh=False,
        )
