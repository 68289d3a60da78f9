"""Fit: a network trained on a dataset, watched on the validation split, resumed if it was killed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transfer.features.dataset import Dataset
from transfer.network import saving
from transfer.network.backend import keras, tf
from transfer.runtime import progress
from transfer.runtime.errors import DataError
from transfer.training import callbacks, devices, losses, optimizers, resume
from transfer.training.history import History, best_epoch
from transfer.training.settings import Params


def compile_model(model: keras.Model, settings: Params, *, batches: int, counts: Sequence[int] | None = None) -> None:
    """Compile a network with its optimizer and the loss that fits its output, for the devices that share it, if any.

    Keras's `loss` includes L1 and L2 penalties and smoothed labels; the metric `log_loss` does not.

    Args:
        model: changed in place; its output is as `losses.build` takes it.
        settings: optimizer, learning rate, schedule, label smoothing, class weight and epochs are used here.
        batches: number of batches of an epoch.
        counts: training photographs of each class, for `class_weight: balanced`.
    """
    weights = losses.balanced_weights(counts) if counts and settings.class_weight == "balanced" else None
    shared = devices.prepare(model)
    with model.distribute_strategy.scope():
        loss = losses.build(model.output_shape, label_smoothing=settings.label_smoothing, weights=weights)
        model.compile(
            optimizer=optimizers.build(
                settings.optimizer,
                settings.optimizer_settings,
                learning_rate=settings.learning_rate,
                schedule=settings.learning_rate_schedule,
                steps=settings.epochs * batches,
            ),
            loss=loss,
            metrics=losses.metrics(model.output_shape),
            jit_compile=False if shared else "auto",  # XLA with several devices is untried
        )
        model.optimizer.build(model.trainable_variables)
        if shared:
            devices.build(model)


def validation_loss(model: keras.Model, validation: Dataset) -> float:
    """Return a compiled network's log loss on the validation split, the `val_loss` of a history."""
    with _reading_errors(validation):
        return float(model.evaluate(validation, verbose=0, return_dict=True)["log_loss"])


def required_space(
    trained: keras.Model, exported: keras.Model, *, settings: Params, scratch: Path, results: Path
) -> dict[Path, int]:
    """Estimate how many bytes a training run still has to write, at most.

    Args:
        trained: the compiled network; its state and best weights are written each epoch.
        exported: the network that is saved at the end.
        settings: decide how many checkpoints are saved.
        scratch: the run's scratch folder, which holds two states while one replaces the other; bytes that it holds
            already are not needed again.
        results: where the network and its checkpoints are written at the end.

    Returns:
        Bytes for each of the two folders.
    """
    best, state = saving.bytes_of_variables(trained.weights), saving.size_in_bytes(trained)
    network = saving.size_in_bytes(exported)
    checkpoints = _number_of_checkpoints(settings)
    epochs = best + 2 * (state + best) + (checkpoints + 2 if checkpoints else 0) * network
    present = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
    return {scratch: max(0, epochs - present), results: (checkpoints + 2) * network}


def _number_of_checkpoints(settings: Params) -> int:
    checkpoint = settings.model_checkpoint
    if not checkpoint:
        return 0
    return 1 if checkpoint.save_best_only else settings.epochs // checkpoint.save_freq


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
    exported: Callable[[], keras.Model] | None = None,
) -> History:
    """Train a compiled network and give it the weights of the best epoch, see `history.best_epoch`.

    Each epoch's order, views and dropout follow from the seed and the epoch's number. So a killed run goes on after
    its last complete epoch, kept in `scratch`, and ends with the result of an undisturbed run.

    Args:
        model: compiled; changed in place. Its weights stay as they are if there is no best epoch.
        train: its `epoch` is set before each epoch.
        validation: the photographs for `val_loss` and `val_accuracy`.
        settings: epochs and callbacks are used here.
        seed: of dropout.
        scratch: folder for the state, of this run alone; see `resume.scratch_folder`.
        name: of the stage, for progress and messages.
        loss_to_beat: only epochs with a lower validation loss count.
        exported: returns the network that checkpoints save, with the weights of `model`; by default `model` itself.

    Returns:
        An entry for each epoch, with `history.COLUMNS` as keys; losses are log losses without penalties.

    Raises:
        DataError: the loss is NaN or infinite, or a row of features or the saved state is damaged.
        LockedError: another process trains in `scratch`.
        DiskError: there is too little space for an epoch's state.
    """
    with resume.exclusive(scratch, name):
        initial_weights = model.get_weights()
        history = resume.restore(model, scratch, name)
        if not _has_ended(model, history, settings):
            saves = _saving_callbacks(model, history, settings, scratch, exported, loss_to_beat=loss_to_beat)
            with _progress_bar(name, history, settings, batches=len(train)) as bar:
                watching = [
                    callbacks.SeedEpochs(train, seed=seed),
                    keras.callbacks.TerminateOnNaN(),
                    callbacks.RecordHistory(history, bar),
                    *saves,
                    *_controlling_callbacks(history, settings),
                    callbacks.BackUpEpochs(history, scratch),  # last: the state is what the others left
                ]
                _run(model, train, validation, epochs=settings.epochs, history=history, watching=watching, name=name)
        best = best_epoch(history, settings, loss_to_beat=loss_to_beat)
        model.set_weights(resume.read_best(scratch) if best else initial_weights)
    return history


def _has_ended(model: keras.Model, history: History, settings: Params) -> bool:
    if len(history) >= settings.epochs:
        return True
    stopping = settings.early_stopping
    return stopping is not None and callbacks.ResumableEarlyStopping(stopping, history).has_stopped(model)


def _progress_bar(name: str, history: History, settings: Params, *, batches: int) -> "tqdm[Any]":
    total, initial = settings.epochs * batches, len(history) * batches
    return progress.bar(total=total, initial=initial, description=name, unit="batches")


def _saving_callbacks(
    model: keras.Model,
    history: History,
    settings: Params,
    scratch: Path,
    exported: Callable[[], keras.Model] | None,
    *,
    loss_to_beat: float,
) -> list[keras.callbacks.Callback]:
    saves = [callbacks.SaveBestWeights(history, settings, scratch, loss_to_beat=loss_to_beat)]
    if settings.model_checkpoint:
        folder = resume.checkpoints_folder(scratch)
        saves.append(callbacks.SaveCheckpoints(settings.model_checkpoint, history, exported or (lambda: model), folder))
    return saves


def _controlling_callbacks(history: History, settings: Params) -> list[keras.callbacks.Callback]:
    controls = []
    if settings.reduce_lr_on_plateau:
        controls.append(callbacks.ResumableReduceLROnPlateau(settings.reduce_lr_on_plateau, history))
    if settings.early_stopping:
        controls.append(callbacks.ResumableEarlyStopping(settings.early_stopping, history))
    return controls


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
    """Train the epochs that are not in the history yet.

    Raises:
        DataError: the loss is NaN or infinite, or a row of features is damaged.
    """
    with _reading_errors(train, validation):
        logs = model.fit(
            train,
            validation_data=validation,
            shuffle=False,  # Keras would shuffle the batches by a random state that the seed does not set
            epochs=epochs,
            initial_epoch=len(history),
            verbose=0,
            callbacks=watching,
        ).history
    if not all(math.isfinite(value) for values in logs.values() for value in values):
        raise DataError(
            f"The loss of {name} must be a finite number. Received: NaN or infinity in epoch {len(history) + 1}. "
            f"Lower `{name}.training.learning_rate`. With its earlier parameters, `dvc repro` brings an earlier model "
            "back without training."
        )


@contextmanager
def _reading_errors(*datasets: Dataset) -> Iterator[None]:
    """Raise the error that a dataset met while it was read, instead of the one that TensorFlow makes of it."""
    try:
        yield
    except tf.errors.OpError as error:
        raise next((dataset.failure for dataset in datasets if dataset.failure), error) from None
