"""Scores: what probabilities given to photographs are worth, against what the photographs show."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

Labels = NDArray[np.intp]  # class numbers, one a photograph
Probabilities = NDArray[np.float64]  # a row a photograph, a column a class; rows sum to one

LEAST = 1e-7  # Keras's epsilon: probabilities are kept this far from 0 and 1, so that this log loss is its loss


class Scores(NamedTuple):
    """The numbers that stand for a model."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float
    roc_auc: float
    calibration_error: float


class Bin(NamedTuple):
    """Photographs predicted with about the same confidence: how many, how confidently, how often rightly."""

    photographs: int
    confidence: float
    accuracy: float


class Point(NamedTuple):
    """A point of an ROC curve."""

    false_positive_rate: float
    true_positive_rate: float


class ClassScores(NamedTuple):
    """What a model is worth for one class.

    Recall: the part of the class's photographs that are taken for it. Precision: the part of those taken for it that
    show it; None where none is.
    """

    photographs: int
    recall: float
    precision: float | None


class Findings(NamedTuple):
    """All there is to show of a model; `classes` in their order, `confusion[actual][predicted]` counts photographs."""

    scores: Scores
    classes: list[ClassScores]
    confusion: list[list[int]]
    roc: list[Point]
    bins: list[Bin]


class Comparison(NamedTuple):
    """Two models on the same photographs: how many each alone has right, and how likely chance makes that of equals."""

    first_alone: int
    second_alone: int
    p: float


def score(labels: Labels, probabilities: Probabilities, *, confidence: float, bins: int) -> Findings:
    """Score a model.

    Args:
        labels: each class at least once.
        probabilities: of the same photographs.
        confidence: of the interval around the accuracy, between 0 and 1.
        bins: of confidence, for `reliability`.
    """
    right = probabilities.argmax(axis=1) == labels
    low, high = wilson_interval(int(right.sum()), len(right), confidence=confidence)
    filled = reliability(labels, probabilities, bins=bins)
    counts = confusion(labels, probabilities)
    return Findings(
        scores=Scores(
            accuracy=float(right.mean()),
            accuracy_low=low,
            accuracy_high=high,
            log_loss=log_loss(labels, probabilities),
            roc_auc=roc_auc(labels, probabilities),
            calibration_error=calibration_error(filled),
        ),
        classes=by_class(counts),
        confusion=counts,
        roc=roc_curve(labels, probabilities),
        bins=filled,
    )


def wilson_interval(right: int, total: int, *, confidence: float) -> tuple[float, float]:
    """The interval that holds the true rate behind `right` of `total` with about this confidence (Wilson, 1927).

    It holds at rates near 1 and for few photographs, where the usual one reaches beyond 1 (Brown, Cai and
    DasGupta, 2001, "Interval Estimation for a Binomial Proportion").
    """
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = right / total
    middle = (rate + squared / (2 * total)) / (1 + squared / total)
    half = math.sqrt(squared * (rate * (1 - rate) + squared / (4 * total)) / total) / (1 + squared / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative logarithm (natural) of the probability given to what is right; 0 is best."""
    kept = probabilities.clip(LEAST, 1 - LEAST)
    classes = range(probabilities.shape[1])
    return float(metrics.log_loss(labels, kept / kept.sum(axis=1, keepdims=True), labels=classes))


def roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """How often a photograph of a class is given a higher probability of it than another is; 1 is best.

    Mean over classes, each against all others; for two classes both are the same.
    """
    each = [metrics.roc_auc_score(truth, given) for truth, given in _each_class(labels, probabilities)]
    return float(np.mean(each))


def roc_curve(labels: Labels, probabilities: Probabilities) -> list[Point]:
    """The curve whose area is `roc_auc`: for more than two classes, the mean over classes of their heights."""
    curves = [metrics.roc_curve(truth, given)[:2] for truth, given in _each_class(labels, probabilities)]
    if len(curves) == 1:
        return [Point(float(false), float(true)) for false, true in zip(*curves[0], strict=True)]
    rates = np.unique(np.concatenate([false for false, _ in curves]))
    # where a curve rises straight up, both ends of the rise are wanted: read from the right and from the left
    below = np.mean([np.interp(-rates, -false[::-1], true[::-1]) for false, true in curves], axis=0)
    above = np.mean([np.interp(rates, false, true) for false, true in curves], axis=0)
    pairs = zip(rates, below, above, strict=True)
    return [Point(float(rate), float(height)) for rate, *heights in pairs for height in dict.fromkeys(heights)]


def confusion(labels: Labels, probabilities: Probabilities) -> list[list[int]]:
    """How many photographs of each class (row) are predicted as each class (column)."""
    classes = range(probabilities.shape[1])
    counts: list[list[int]] = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes).tolist()
    return counts


def by_class(confusion: Sequence[Sequence[int]]) -> list[ClassScores]:
    """Recall and precision of each class, from `confusion[actual][predicted]`; each class has photographs."""
    taken_for = [sum(column) for column in zip(*confusion, strict=True)]
    return [
        ClassScores(
            photographs=sum(row),
            recall=row[number] / sum(row),
            precision=row[number] / taken_for[number] if taken_for[number] else None,
        )
        for number, row in enumerate(confusion)
    ]


def most_confident_errors(labels: Labels, probabilities: Probabilities) -> list[int]:
    """Which photographs are predicted wrongly, by their numbers, the one with the highest probability first."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    return [int(number) for number in order if probabilities[number].argmax() != labels[number]]


def least_certain(probabilities: Probabilities) -> list[int]:
    """All photographs by their numbers, the one whose two likeliest classes are the closest first."""
    *_, second, first = np.sort(probabilities, axis=1).T
    return [int(number) for number in np.argsort(first - second, kind="stable")]


def reliability(labels: Labels, probabilities: Probabilities, *, bins: int) -> list[Bin]:
    """Group photographs by the probability of the predicted class, and leave out empty groups.

    The bins are of equal width, from the least that the highest of the probabilities can be, 1 / classes, to 1.
    """
    classes = probabilities.shape[1]
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.clip(((confidence - 1 / classes) / (1 - 1 / classes) * bins).astype(int), 0, bins - 1)
    members = [numbers == number for number in range(bins)]
    return [
        Bin(int(each.sum()), float(confidence[each].mean()), float(right[each].mean()))
        for each in members
        if each.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy, weighted by photographs; 0 is best.

    The expected calibration error of Guo, Pleiss, Sun and Weinberger, 2017, "On Calibration of Modern Neural Networks".
    """
    photographs = sum(each.photographs for each in bins)
    return sum(each.photographs * abs(each.confidence - each.accuracy) for each in bins) / photographs


def compare(labels: Labels, first: Probabilities, second: Probabilities) -> Comparison:
    """Compare two models on the same photographs by those that only one of them has right.

    The p-value is McNemar's (1947), two-sided and exact: equally good models share those photographs like a coin's
    two sides.
    """
    first_right, second_right = first.argmax(axis=1) == labels, second.argmax(axis=1) == labels
    first_alone, second_alone = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    return Comparison(first_alone, second_alone, p=mcnemar_p(first_alone, second_alone))


def mcnemar_p(first_alone: int, second_alone: int) -> float:
    """The chance that of this many tosses of a coin one side is seen this seldom or less; see `compare`."""
    tosses = first_alone + second_alone
    ways = sum(math.comb(tosses, seen) for seen in range(min(first_alone, second_alone) + 1))
    return min(1.0, 2 * ways / (1 << tosses))


def _each_class(labels: Labels, probabilities: Probabilities) -> Iterator[tuple[NDArray[np.bool_], Probabilities]]:
    """Each class against the others; of two classes the second, as the first is its mirror image."""
    classes = probabilities.shape[1]
    numbers: Iterable[int] = (1,) if classes == 2 else range(classes)
    return ((labels == number, probabilities[:, number]) for number in numbers)
