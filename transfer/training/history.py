"""History: the scores of each epoch, written, read, compared and joined in one place."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.runtime import files
from transfer.runtime.errors import DataError
from transfer.training.settings import Monitor, Params, mode_of

Epoch = dict[str, float]  # by column
History = list[Epoch]

COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds")

# The name in Keras's logs of each score of a history. Keras's `loss` includes L1 and L2 penalties and smoothed labels,
# the metric `log_loss` does not. Epochs are compared by `log_loss`: smaller weights alone make no better network.
KERAS_LOGS = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}


class Phase(NamedTuple):
    """A stage's training run.

    `best_epoch` is the epoch whose weights the run keeps and `over_fits_from` the first epoch that over-fits, both
    counted from 1 and None if there is none.
    """

    stage: str
    history: History
    best_epoch: int | None
    over_fits_from: int | None = None


class CurvePoint(NamedTuple):
    """The scores of one epoch on one split.

    `epoch` counts through all phases, `phase_epoch` starts at 1 in each. `begins` marks the first epoch of a phase,
    `best` the epoch whose weights the phase keeps, and `over_fits` epochs that improve on the training split alone.
    """

    epoch: int
    phase: str
    phase_epoch: int
    split: str
    loss: float
    accuracy: float
    begins: bool
    best: bool
    over_fits: bool = False


def write_history(path: Path, history: History) -> None:
    """Write a history as CSV with the columns `COLUMNS`, atomically."""
    files.write_csv(path, COLUMNS, [[epoch[column] for column in COLUMNS] for epoch in history])


def read_history(path: Path) -> History:
    """Read a `history.csv`.

    Raises:
        DataError: a cell is not a number, a row has another number of cells, or there is no row.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} must be a table of numbers. Received: {error}. Rerun the stage that writes it."
            ) from None
    if not history:
        raise DataError(f"{path} must have a row for each epoch. Received: none. Rerun the stage that writes it.")
    return history


def best_epoch(history: History, settings: Params, *, loss_to_beat: float = math.inf) -> Epoch | None:
    """Return the epoch whose weights a training run keeps.

    With `early_stopping.restore_best_weights` this is the best epoch by its monitor, otherwise the last. Only epochs
    with a validation loss below `loss_to_beat` count; without one, return None.
    """
    stopping = settings.early_stopping
    if not stopping or not stopping.restore_best_weights:
        return next((epoch for epoch in history[-1:] if epoch["val_loss"] < loss_to_beat), None)
    eligible = [epoch for epoch in history if epoch["val_loss"] < loss_to_beat]
    return best_by_monitor(eligible, stopping.monitor, min_delta=stopping.min_delta)


def best_by_monitor(history: History, monitor: Monitor, *, min_delta: float = 0.0) -> Epoch | None:
    """Return the epoch whose weights Keras's EarlyStopping restores: the last to improve on the best before it.

    Args:
        history: the epochs to compare; without any, return None.
        monitor: the score to compare by.
        min_delta: a smaller improvement does not count.
    """
    best: Epoch | None = None
    for epoch in history:
        if best is None or _improves(epoch[monitor], best[monitor], monitor=monitor, min_delta=min_delta):
            best = epoch
    return best


def summary(history: History, settings: Params, *, loss_to_beat: float = math.inf) -> dict[str, float]:
    """Return the number of epochs, and number and scores of the best epoch if there is one; see `best_epoch`."""
    best = best_epoch(history, settings, loss_to_beat=loss_to_beat)
    if best is None:
        return {"epochs": len(history)}
    return {"epochs": len(history), "best_epoch": best["epoch"], **{score: best[score] for score in KERAS_LOGS}}


def concatenate(phases: Sequence[Phase]) -> list[CurvePoint]:
    """Return a point for every epoch of every phase on the training and on the validation split, in order."""
    lengths = [len(phase.history) for phase in phases]
    return [
        CurvePoint(
            epoch=sum(lengths[:number]) + index,
            phase=phase.stage,
            phase_epoch=index,
            split=split,
            loss=row[f"{prefix}loss"],
            accuracy=row[f"{prefix}accuracy"],
            begins=index == 1,
            best=index == phase.best_epoch,
            over_fits=phase.over_fits_from is not None and index >= phase.over_fits_from,
        )
        for number, phase in enumerate(phases)
        for index, row in enumerate(phase.history, start=1)
        for split, prefix in (("train", ""), ("validation", "val_"))
    ]


def _improves(value: float, best: float, *, monitor: Monitor, min_delta: float) -> bool:
    return value > best + min_delta if mode_of(monitor) == "max" else value < best - min_delta
