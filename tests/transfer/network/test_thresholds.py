"""Thresholds: coverage that holds for further photographs, and honest answers with too few of them."""

import numpy as np
import pytest

from tests.thresholds import limits
from transfer.network import thresholds
from transfer.network.thresholds import Floats, Labels, Thresholds

CLASSES = ["cat", "dog"]


def predicted(seed: int, photographs: int, *, share: float = 0.5) -> tuple[Labels, Floats]:
    """Return labels and probabilities of a network that errs on a tenth of the photographs, on cats more often."""
    random = np.random.default_rng(seed)
    labels = (random.random(photographs) < share).astype(np.intp)
    log_odds = random.normal(size=photographs) * 1.5 + np.where(labels, 2.5, -1.5)
    dog = 1 / (1 + np.exp(-log_odds))
    return labels, np.stack([1 - dog, dog], axis=1)


def fitted(labels: Labels, probabilities: Floats, *, coverage: float = 0.95, lost: float = 0.02) -> Thresholds:
    """Return the thresholds of a validation split whose distances are 0.01, 0.02 and so on."""
    distances = np.arange(1, len(labels) + 1) / 100
    return thresholds.fit(labels, probabilities, distances, CLASSES, coverage=coverage, lost=lost, rows="ab" * 32)


def test_coverage_holds_for_each_class() -> None:
    """In the mean over validation splits, at least the stated fraction of further photographs of each class is covered.

    It is more only of a class that the network predicts correctly more often than that.
    """
    labels, probabilities = predicted(99, 20_000, share=0.2)
    covered = []
    for seed in range(50):
        least = thresholds.least_probabilities(fitted(*predicted(seed, 400, share=0.2)), CLASSES)
        plausible = thresholds.plausible_classes(probabilities, least)[np.arange(len(labels)), labels]
        covered.append([plausible[labels == number].mean() for number in (0, 1)])
    cat, dog = np.mean(covered, axis=0)
    assert cat == pytest.approx(0.95, abs=0.005)
    assert 0.95 < dog < 0.98


def test_an_answer_is_a_class_only_if_no_other_is_plausible_and_the_photograph_is_near() -> None:
    """Far photographs are none of the classes, whatever their probabilities are."""
    given_limits = limits(coverage=0.95, plausible={"cat": 0.3, "dog": 0.1}, distance=0.5)
    dog = np.array([0.65, 0.75, 0.15, 0.05, 1.0])
    distances = np.array([0.1, 0.5, 0.1, 0.1, 0.51])
    given = thresholds.answers(np.stack([1 - dog, dog], axis=1), distances, given_limits, CLASSES)
    assert given == ["not sure", "dog", "not sure", "cat", "none of these"]


def test_two_of_a_hundred_photographs_may_be_lost() -> None:
    """The distance is that of the photograph of the validation split beyond which so many are."""
    labels, probabilities = predicted(0, 199)
    assert fitted(labels, probabilities, lost=0.02).distance == pytest.approx(1.96)
    assert fitted(labels, probabilities, lost=0.001).distance is None


def test_few_photographs_of_a_class_share_a_threshold() -> None:
    """A coverage of 95 % needs 19 photographs of each class, or in all; without them no answer is "not sure"."""
    labels = np.array([0] * 19 + [1] * 19)
    probabilities = np.where(labels[:, np.newaxis] == np.arange(2), 0.9, 0.1)
    assert fitted(labels, probabilities).calibrated == "classes"
    together = fitted(labels[1:], probabilities[1:])
    assert together.calibrated == "together"
    assert together.plausible["cat"] == together.plausible["dog"]
    none = fitted(labels[10:28], probabilities[10:28])
    assert (none.calibrated, none.plausible) == ("none", {})
    unsure = np.array([[0.5, 0.5]])
    assert thresholds.answers(unsure, np.array([0.0]), none, CLASSES) == ["cat"]
