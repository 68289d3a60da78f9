"""Promotion: the rule by which a network replaces the one in production, the champion.

A candidate is promoted if its accuracy is not lower beyond a margin and its log loss is better by a paired bootstrap
(Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapter 13): photographs are drawn with replacement,
and both networks are compared on the same draws, so that photographs that are hard for both cancel out.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from transfer.evaluation.scores import EPSILON, Labels, Probabilities
from transfer.runtime import params

SECTION = "promote"
_DRAWN_AT_ONCE = 1 << 20  # numbers of photographs


class Params(params.Section):
    """When a network is promoted."""

    minimum_accuracy: float = Field(ge=0, le=1, description="on the test split, of the first promoted network")
    accuracy_margin: float = Field(ge=0, le=1, description="by which the accuracy may be below the champion's")
    confidence: float = Field(gt=0, lt=1, description="of the interval of the difference in log loss")
    resamples: int = Field(ge=100, le=1_000_000, description="draws of the bootstrap")
    seed: int = Field(ge=0, description="of the draws")


class Verdict(NamedTuple):
    """Whether a candidate is promoted, and why.

    Attributes:
        promoted: whether the candidate replaces the champion, or becomes the first one.
        reason: a sentence with the numbers.
        accuracy: of the candidate; None if it was not scored.
        log_loss: likewise.
        champion_accuracy: of the champion; None if there is none or it was not scored.
        champion_log_loss: likewise.
        low: lower end of the interval of the candidate's log loss minus the champion's.
        high: upper end.
    """

    promoted: bool
    reason: str
    accuracy: float | None = None
    log_loss: float | None = None
    champion_accuracy: float | None = None
    champion_log_loss: float | None = None
    low: float | None = None
    high: float | None = None


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def decide(labels: Labels, candidate: Probabilities, champion: Probabilities | None, settings: Params) -> Verdict:
    """Decide whether a candidate is promoted.

    Args:
        labels: class numbers of the test photographs.
        candidate: its probabilities for these photographs.
        champion: those of the network in production; None if there is none.
        settings: the section `promote` of params.yaml.
    """
    if champion is None:
        return _decide_first(labels, candidate, settings)
    ours, theirs = losses(labels, candidate), losses(labels, champion)
    difference = paired_bootstrap(
        ours - theirs, confidence=settings.confidence, resamples=settings.resamples, seed=settings.seed
    )
    accuracy, before = _accuracy(labels, candidate), _accuracy(labels, champion)
    margin = settings.accuracy_margin
    numbers = (
        f"accuracy {accuracy:.4f} against {before:.4f}, log loss {ours.mean():.4f} against {theirs.mean():.4f} "
        f"({100 * settings.confidence:g} % interval of the difference {difference.low:+.4f} to {difference.high:+.4f})"
    )
    if accuracy < before - margin - EPSILON:
        promoted, reason = False, f"The accuracy is lower by more than {margin:g}: {numbers}."
    elif difference.high >= 0:
        promoted, reason = False, f"The log loss is not better beyond chance: {numbers}."
    else:
        promoted, reason = True, f"Better than the champion: {numbers}."
    return Verdict(promoted, reason, accuracy, float(ours.mean()), before, float(theirs.mean()), *difference)


def _decide_first(labels: Labels, candidate: Probabilities, settings: Params) -> Verdict:
    accuracy, floor = _accuracy(labels, candidate), settings.minimum_accuracy
    promoted = accuracy >= floor
    order = "at least" if promoted else "below"
    reason = f"The first: its accuracy of {accuracy:.4f} is {order} `{SECTION}.minimum_accuracy`, {floor:g}."
    return Verdict(promoted, reason, accuracy, float(losses(labels, candidate).mean()))


def losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the log loss of each photograph, shape (photographs,); its mean is `scores.log_loss`."""
    clipped = probabilities.clip(EPSILON, 1 - EPSILON)
    of_true_class = np.take_along_axis(clipped, labels[:, np.newaxis], axis=1)[:, 0] / clipped.sum(axis=1)
    result: NDArray[np.float64] = -np.log(of_true_class)
    return result


def paired_bootstrap(differences: NDArray[np.float64], *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the percentile interval of a mean difference, from draws of photographs with replacement.

    Args:
        differences: one for each photograph, shape (photographs,), 1 or more.
        confidence: confidence level of the interval, between 0 and 1.
        resamples: number of draws.
        seed: of the draws; the same seed and photographs give the same interval.
    """
    random = np.random.default_rng(seed)
    size = len(differences)
    at_once = max(1, _DRAWN_AT_ONCE // size)
    means = np.concatenate(
        [
            differences[random.integers(size, size=(min(at_once, resamples - start), size))].mean(axis=1)
            for start in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _accuracy(labels: Labels, probabilities: Probabilities) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())
