"""Learning curves: the histories of trainings that follow one another, put end to end."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.runtime.errors import DataError
from transfer.training.settings import Monitor, mode_of


class Phase(NamedTuple):
    """A training: its stage, `history.csv` an epoch, the epoch kept and the first that over-fits (from 1), if any."""

    stage: str
    history: list[dict[str, float]]
    best_epoch: int | None
    over_fits_from: int | None = None


class CurvePoint(NamedTuple):
    """An epoch of one phase on one split; `epoch` counts on through the phases, `phase_epoch` begins anew at 1.

    `begins`: its phase begins with it; `best`: it was kept; `over_fits`: in it the training split alone was learned.
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


def read_history(path: Path) -> list[dict[str, float]]:
    """Read a training's `history.csv`.

    Raises:
        DataError: it is no table of numbers, or has no epoch.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} must be a table of numbers: {error}. Rerun the stage that makes it.") from None
    if not history:
        raise DataError(f"{path} must have a row an epoch. Received: none. Rerun the stage that makes it.")
    return history


def concatenate(phases: Sequence[Phase]) -> list[CurvePoint]:
    """Every epoch of every phase, on the training and on the validation split, in order."""
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


Epoch = dict[str, float]


History = list[Epoch]


# What Keras logs under each column of a history: its own `loss` has the penalties of L1 and L2 and smoothed labels in
# it, the metric `log_loss` has not, and is what epochs are compared by. Smaller weights alone make no better network.
LOGS = {"loss": "log_loss", "accuracy": "accuracy", "val_loss": "val_log_loss", "val_accuracy": "val_accuracy"}


def _is_better(value: float, best: float, *, monitor: Monitor, min_delta: float) -> bool:
    return value > best + min_delta if mode_of(monitor) == "max" else value < best - min_delta


def best_by(history: History, *, monitor: Monitor, min_delta: float = 0.0) -> Epoch | None:
    """The epoch whose weights Keras's EarlyStopping restores: the last that was better than the best before it."""
    found: Epoch | None = None
    for epoch in history:
        if found is None or _is_better(epoch[monitor], found[monitor], monitor=monitor, min_delta=min_delta):
            found = epoch
    return found
