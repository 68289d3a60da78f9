"""Learning curves: the histories of trainings that follow one another, put end to end."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transfer.errors import DataError


class Phase(NamedTuple):
    """A training: its stage, `history.csv` an epoch, the epoch kept and the first that over-fits (from 1), if any."""

    stage: str
    history: list[dict[str, float]]
    best_epoch: int | None
    over_fits_from: int | None = None


class Epoch(NamedTuple):
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


def end_to_end(phases: Sequence[Phase]) -> list[Epoch]:
    """Every epoch of every phase, on the training and on the validation split, in order."""
    lengths = [len(phase.history) for phase in phases]
    return [
        Epoch(
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
