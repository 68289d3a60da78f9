import numpy as np
import pytest

from tests import thresholds
from transfer.evaluation import answer_rates


def test_answers_are_counted_by_class() -> None:
    """A class is covered if it is plausible, also where the answer is "not sure" or "none of these"."""
    limits = thresholds.limits()
    dog = np.array([0.1, 0.45, 0.9, 0.1, 0.9, 0.55])
    labels, distances = np.array([0, 0, 0, 1, 1, 1]), np.array([0.5, 0.5, 0.5, 0.5, 2.0, 0.5])
    counted = answer_rates.count(
        labels, np.stack([1 - dog, dog], axis=1), distances, limits, classes=["cat", "dog"], confidence=0.95
    )
    cat, dogs, together = counted.groups
    assert cat[:6] == ("cat", 3, 1, 1, 1, 0)
    assert dogs[:6] == ("dog", 3, 0, 1, 1, 1)
    assert together[:6] == ("all", 6, 1, 2, 2, 1)
    assert (cat.coverage, together.coverage) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert together.low < together.coverage < together.high
    metrics = answer_rates.metrics(counted)
    assert (metrics["wrong"], metrics["not_sure"], metrics["none_of_these"]) == (2, 2, 1)
    assert set(metrics["coverage_by_class"]) == {"cat", "dog"}
