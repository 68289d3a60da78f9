"""Answers: how often the final network answers "not sure" or "none of these" on the test split, and how often rightly.

On the test split all photographs have a class, so "none of these" is always an error here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.evaluation.inputs import TUNED, Inputs
from transfer.evaluation.scores import Labels, Probabilities, wilson_interval
from transfer.network import neighbours, thresholds
from transfer.network.thresholds import NONE_OF_THESE, NOT_SURE, Thresholds
from transfer.runtime.errors import rerun_hint

ALL = "all"  # the name of the group of all photographs


class Group(NamedTuple):
    """The answers to the photographs of a class, or of all classes.

    Attributes:
        name: of the class, or `ALL`.
        photographs: how many there are.
        right: those answered with their class.
        wrong: those answered with another class.
        not_sure: those answered "not sure".
        none_of_these: those answered "none of these".
        coverage: fraction of which the class is plausible, see `thresholds`.
        low: lower end of its interval.
        high: upper end.
    """

    name: str
    photographs: int
    right: int
    wrong: int
    not_sure: int
    none_of_these: int
    coverage: float
    low: float
    high: float


class Answers(NamedTuple):
    """The answers on the test split, by class and at the end of all classes, and the thresholds behind them."""

    thresholds: Thresholds
    groups: list[Group]


def of_test(inputs: Inputs, predicted: Probabilities, rows: neighbours.Rows, *, confidence: float) -> Answers | None:
    """Count the fine-tuned network's answers on the test split; None if it has no thresholds.

    Args:
        inputs: of the stage `evaluate`.
        predicted: the network's probabilities for the test photographs.
        rows: of these photographs, see `neighbours`.
        confidence: confidence level of the intervals.

    Raises:
        DataError: the rows of the training photographs are missing or damaged.
    """
    file, fitted = inputs.trained[TUNED].file, inputs.trained[TUNED].card.thresholds
    if fitted is None:
        return None
    distances = neighbours.distance(rows, file, fitted, hint=rerun_hint(TUNED))
    return count(inputs.labels, predicted, distances, fitted, classes=inputs.classes, confidence=confidence)


def count(
    labels: Labels,
    probabilities: Probabilities,
    distances: NDArray[np.float64],
    fitted: Thresholds,
    *,
    classes: Sequence[str],
    confidence: float,
) -> Answers:
    """Count the answers on the test split.

    Args:
        labels: class numbers of the test photographs.
        probabilities: of the final network for these.
        distances: to the training photographs, shape (photographs,).
        fitted: the thresholds of the network.
        classes: class names, in the order of their numbers.
        confidence: confidence level of the intervals.
    """
    names = list(classes)
    given = np.array(thresholds.answers(probabilities, distances, fitted, names))
    right = given == np.array(names)[labels]
    plausible = thresholds.plausible_classes(probabilities, thresholds.least_probabilities(fitted, names))
    covered = plausible[np.arange(len(labels)), labels]
    everything = np.ones(len(labels), bool)
    masks = {**{name: labels == number for number, name in enumerate(names)}, ALL: everything}
    return Answers(
        fitted,
        [
            _group(name, given[mask], right[mask], covered[mask], confidence=confidence)
            for name, mask in masks.items()
            if mask.any()
        ],
    )


def metrics(answers: Answers) -> dict[str, Any]:
    """Return the entries of metrics.json: those of all photographs, and the coverage of each class."""
    *by_class, together = answers.groups
    counts = {name: value for name, value in together._asdict().items() if name not in ("name", "photographs")}
    return {**counts, "coverage_by_class": {group.name: group.coverage for group in by_class}}


def _group(
    name: str, given: NDArray[np.str_], right: NDArray[np.bool_], covered: NDArray[np.bool_], *, confidence: float
) -> Group:
    not_sure, none_of_these = (int((given == answer).sum()) for answer in (NOT_SURE, NONE_OF_THESE))
    low, high = wilson_interval(int(covered.sum()), len(covered), confidence=confidence)
    return Group(
        name=name,
        photographs=len(given),
        right=int(right.sum()),
        wrong=len(given) - int(right.sum()) - not_sure - none_of_these,
        not_sure=not_sure,
        none_of_these=none_of_these,
        coverage=float(covered.mean()),
        low=low,
        high=high,
    )
