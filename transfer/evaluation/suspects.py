"""Suspects: photographs whose class may be wrong.

A linear probe predicts every photograph after training on others only, so that no label vouches for itself. Where it
prefers another class than the label's, the label is suspected (Northcutt, Jiang and Chuang, 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels"). As there, suspects of a first round do not train the second.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.evaluation import linear_probe
from transfer.evaluation.linear_probe import Rows
from transfer.evaluation.scores import Labels, Probabilities
from transfer.images import manifest
from transfer.runtime import files, seeding, spreadsheets

FOLDS = 5
STRENGTH = 0.01  # of the probe: with weaker penalties a wrong label counts for more than the photographs around it
COLUMNS = ("rank", "sha256", "path", "source", "split", "class", "suggested", "probability", "decision", "note")

_LEFT_OUT = 1 / 3  # of a class at most, as suspects of the first round: the rest must be enough to train on


class Suspect(NamedTuple):
    """A photograph, the class that is suggested for it, and the probability of that class."""

    photograph: manifest.Entry
    suggested: str
    probability: float


def find(photographs: Sequence[manifest.Entry], rows: Rows, classes: Sequence[str]) -> list[Suspect]:
    """Return the photographs that are predicted as another class than their own, the clearest ones first.

    Args:
        photographs: of all splits; two or more of each class.
        rows: their features, as `linear_probe.read_rows` returns them.
        classes: class names, in the order of their numbers.
    """
    labels = np.array([classes.index(photograph.class_name) for photograph in photographs])
    folds = _folds([photograph.sha256 for photograph in photographs], labels)
    everything = np.ones(len(labels), bool)
    first = _margins(out_of_fold(rows, labels, folds, trained_on=everything, classes=len(classes)), labels)
    second = out_of_fold(rows, labels, folds, trained_on=_trusted(first, labels), classes=len(classes))
    margins, best = _margins(second, labels), second.argmax(axis=1)
    order = sorted(range(len(labels)), key=lambda index: (margins[index], photographs[index].sha256))
    return [
        Suspect(photographs[index], classes[best[index]], float(second[index].max()))
        for index in order
        if margins[index] < 0
    ]


def out_of_fold(
    rows: Rows, labels: Labels, folds: NDArray[np.intp], *, trained_on: NDArray[np.bool_], classes: int
) -> Probabilities:
    """Predict the photographs of each fold by a probe that is trained on those of the other folds.

    Args:
        rows: features, shape (photographs, channels).
        labels: class numbers.
        folds: the fold of each photograph.
        trained_on: the photographs that may be trained on.
        classes: number of classes.

    Returns:
        Array of shape (photographs, classes).
    """
    probabilities = np.empty((len(rows), classes))
    for fold in range(FOLDS):
        held_out = folds == fold
        used = trained_on & ~held_out
        probabilities[held_out] = linear_probe.predict(
            rows[used], labels[used], rows[held_out], classes=classes, strength=STRENGTH, balanced=True
        )
    return probabilities


def table(suspects: Sequence[Suspect]) -> str:
    """Return the content of suspects.csv: a row for each suspect, with two empty columns to mark up."""
    return files.csv_text(
        COLUMNS,
        (
            [
                rank,
                suspect.photograph.sha256,
                *map(spreadsheets.protect, (suspect.photograph.path, suspect.photograph.source)),
                suspect.photograph.split,
                *map(spreadsheets.protect, (suspect.photograph.class_name, suspect.suggested)),
                f"{suspect.probability:.4f}",
                "",
                "",
            ]
            for rank, suspect in enumerate(suspects, start=1)
        ),
    )


def _folds(photographs: Collection[str], labels: Labels) -> NDArray[np.intp]:
    """Deal the photographs of each class to the folds, in an order that follows from their SHA-256s alone."""
    keys = np.array([seeding.digest("suspects", sha256) for sha256 in photographs], np.uint64)
    folds = np.empty(len(labels), np.intp)
    for label in np.unique(labels):
        [members] = np.nonzero(labels == label)
        folds[members[np.argsort(keys[members], kind="stable")]] = np.arange(len(members)) % FOLDS
    return folds


def _margins(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """Return by how much the probability of a photograph's own class exceeds that of the best other class."""
    others = probabilities.copy()
    own = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
    np.put_along_axis(others, labels[:, np.newaxis], -np.inf, axis=1)
    margins: NDArray[np.float64] = own - others.max(axis=1)
    return margins


def _trusted(margins: NDArray[np.float64], labels: Labels) -> NDArray[np.bool_]:
    """Return which labels are trusted: those that were predicted, and in each class at least a part of the others."""
    trusted = np.ones(len(labels), bool)
    for label in np.unique(labels):
        [members] = np.nonzero(labels == label)
        least = members[np.argsort(margins[members], kind="stable")][: int(_LEFT_OUT * len(members))]
        trusted[least[margins[least] < 0]] = False
    return trusted
