"""Scores: compare predicted probabilities with the true classes of photographs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics

Labels = NDArray[np.intp]  # class numbers, shape (photographs,)
Probabilities = NDArray[np.float64]  # shape (photographs, classes); each row sums to one

EPSILON = 1e-7  # Keras's epsilon: probabilities are clipped to this distance from 0 and 1, as in Keras's own loss


class Scores(NamedTuple):
    """The main scores of a model, each a single number."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    balanced_accuracy: float
    log_loss: float
    roc_auc: float
    calibration_error: float


class Bin(NamedTuple):
    """A bin of the reliability diagram: number of photographs, their mean confidence and their accuracy."""

    photographs: int
    confidence: float
    accuracy: float


class Point(NamedTuple):
    """A point of an ROC curve."""

    false_positive_rate: float
    true_positive_rate: float


class ClassScores(NamedTuple):
    """The scores of a model for one class.

    Recall: the fraction of the class's photographs that are predicted as this class. Precision: the fraction of the
    photographs predicted as this class that belong to it; None if no photograph is predicted as this class.
    """

    photographs: int
    recall: float
    precision: float | None


class Evaluation(NamedTuple):
    """All scores and curves of a model.

    `classes` are in the order of the class numbers; `confusion[actual][predicted]` counts photographs.
    """

    scores: Scores
    classes: list[ClassScores]
    confusion: list[list[int]]
    roc: list[Point]
    bins: list[Bin]


class Comparison(NamedTuple):
    """Two models on the same photographs: the photographs that only one of them predicts correctly, and McNemar's p."""

    first_alone: int
    second_alone: int
    p: float


def score(labels: Labels, probabilities: Probabilities, *, confidence: float, bins: int) -> Evaluation:
    """Score a model.

    Args:
        labels: class numbers; each class occurs at least once.
        probabilities: the model's probabilities for the same photographs.
        confidence: confidence level of the accuracy's interval, between 0 and 1.
        bins: number of bins of the reliability diagram.

    Returns:
        The model's scores, confusion matrix, ROC curve and reliability diagram.
    """
    correct = probabilities.argmax(axis=1) == labels
    low, high = wilson_interval(int(correct.sum()), len(correct), confidence=confidence)
    diagram = reliability_bins(labels, probabilities, bins=bins)
    confusion = confusion_matrix(labels, probabilities)
    return Evaluation(
        scores=Scores(
            accuracy=float(correct.mean()),
            accuracy_low=low,
            accuracy_high=high,
            balanced_accuracy=balanced_accuracy(confusion),
            log_loss=log_loss(labels, probabilities),
            roc_auc=roc_auc(labels, probabilities),
            calibration_error=calibration_error(diagram),
        ),
        classes=class_scores(confusion),
        confusion=confusion,
        roc=roc_curve(labels, probabilities),
        bins=diagram,
    )


def wilson_interval(correct: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval (1927) for the rate of `correct` out of `total`.

    It is valid for rates near 1 and for few photographs, where the normal approximation exceeds 1 (Brown, Cai and
    DasGupta, 2001, "Interval Estimation for a Binomial Proportion").

    Args:
        correct: number of correct predictions, 0 to `total`.
        total: number of predictions, 1 or more.
        confidence: confidence level, between 0 and 1.

    Returns:
        The lower and the upper limit, 0 to 1.
    """
    interval = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean negative natural logarithm of the true class's probability; 0 is best."""
    clipped = probabilities.clip(EPSILON, 1 - EPSILON)
    classes = range(probabilities.shape[1])
    return float(metrics.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=classes))


def roc_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Return the area under the ROC curve; 1 is best.

    It is the probability that a photograph of a class gets a higher score for this class than a photograph of another
    class. The result is the mean over all classes, each against the rest; for two classes both areas are equal.
    """
    areas = [metrics.roc_auc_score(truth, scores) for truth, scores in _one_against_rest(labels, probabilities)]
    return float(np.mean(areas))


def roc_curve(labels: Labels, probabilities: Probabilities) -> list[Point]:
    """Return the ROC curve whose area is `roc_auc`; for more than two classes, the mean of all classes' curves."""
    curves = [metrics.roc_curve(truth, scores)[:2] for truth, scores in _one_against_rest(labels, probabilities)]
    if len(curves) == 1:
        return [Point(float(false), float(true)) for false, true in zip(*curves[0], strict=True)]
    rates = np.unique(np.concatenate([false for false, _ in curves]))
    # a vertical step has two heights at one rate; interpolation from the right gives the lower, from the left the upper
    lower = np.mean([np.interp(-rates, -false[::-1], true[::-1]) for false, true in curves], axis=0)
    upper = np.mean([np.interp(rates, false, true) for false, true in curves], axis=0)
    steps = zip(rates, lower, upper, strict=True)
    return [Point(float(rate), float(height)) for rate, *heights in steps for height in dict.fromkeys(heights)]


def confusion_matrix(labels: Labels, probabilities: Probabilities) -> list[list[int]]:
    """Count the photographs by true class (row) and predicted class (column)."""
    classes = range(probabilities.shape[1])
    matrix: list[list[int]] = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes).tolist()
    return matrix


def class_scores(confusion: Sequence[Sequence[int]]) -> list[ClassScores]:
    """Return recall and precision of each class.

    Args:
        confusion: number of photographs by true class (row) and predicted class (column); no row is all zero.
    """
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    return [
        ClassScores(
            photographs=sum(row),
            recall=row[number] / sum(row),
            precision=row[number] / predicted[number] if predicted[number] else None,
        )
        for number, row in enumerate(confusion)
    ]


def balanced_accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """Return the mean recall of the classes: the accuracy if all classes had the same number of photographs."""
    recalls = [scores.recall for scores in class_scores(confusion)]
    return sum(recalls) / len(recalls)


def most_confident_errors(labels: Labels, probabilities: Probabilities) -> list[int]:
    """Return the indices of all wrong predictions, the highest probability first."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    return [int(index) for index in order if probabilities[index].argmax() != labels[index]]


def least_certain(probabilities: Probabilities) -> list[int]:
    """Return the indices of all predictions, the smallest margin between the two most probable classes first."""
    *_, second, first = np.sort(probabilities, axis=1).T
    return [int(index) for index in np.argsort(first - second, kind="stable")]


def reliability_bins(labels: Labels, probabilities: Probabilities, *, bins: int) -> list[Bin]:
    """Group predictions by the probability of the predicted class, and omit empty groups.

    The bins have equal width and cover 1 / classes, the least probability that a predicted class can have, to 1.
    """
    classes = probabilities.shape[1]
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    numbers = np.clip(((confidence - 1 / classes) / (1 - 1 / classes) * bins).astype(int), 0, bins - 1)
    members = [numbers == number for number in range(bins)]
    return [
        Bin(int(mask.sum()), float(confidence[mask].mean()), float(correct[mask].mean()))
        for mask in members
        if mask.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance between confidence and accuracy, weighted by photographs; 0 is best.

    It is the expected calibration error of Guo, Pleiss, Sun and Weinberger, 2017, "On Calibration of Modern Neural
    Networks".
    """
    photographs = sum(group.photographs for group in bins)
    return sum(group.photographs * abs(group.confidence - group.accuracy) for group in bins) / photographs


def compare(labels: Labels, first: Probabilities, second: Probabilities) -> Comparison:
    """Compare two models on the same photographs by McNemar's test (1947).

    The test uses only the discordant pairs: the photographs that one model predicts correctly and the other wrongly.
    """
    first_correct, second_correct = first.argmax(axis=1) == labels, second.argmax(axis=1) == labels
    first_alone = int((first_correct & ~second_correct).sum())
    second_alone = int((second_correct & ~first_correct).sum())
    return Comparison(first_alone, second_alone, p=mcnemar_p(first_alone, second_alone))


def mcnemar_p(first_alone: int, second_alone: int) -> float:
    """Return McNemar's exact, two-sided p-value for the discordant pairs; 1 if there are none."""
    pairs = first_alone + second_alone
    return float(binomtest(first_alone, pairs).pvalue) if pairs else 1.0


def _one_against_rest(
    labels: Labels, probabilities: Probabilities
) -> Iterator[tuple[NDArray[np.bool_], Probabilities]]:
    """Yield each class against the rest; for two classes only the second, as the first gives the same curve."""
    classes = probabilities.shape[1]
    numbers: Iterable[int] = (1,) if classes == 2 else range(classes)
    return ((labels == number, probabilities[:, number]) for number in numbers)
