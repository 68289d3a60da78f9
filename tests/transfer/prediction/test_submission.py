import numpy as np
import pytest

from transfer.prediction import submission
from transfer.sources.competition import Sample

SAMPLE = Sample(("id", "label"), ["2", "1", "10"])
PROBABILITIES = {"1": 0.25, "2": 0.9999999, "10": 0.5}


def test_labels_are_in_the_order_of_the_sample() -> None:
    """The header and the order are the sample's; a photograph gets 1 if it is more likely a dog."""
    assert submission.as_labels(SAMPLE, PROBABILITIES) == "id,label\n2,1\n1,0\n10,0\n"


def test_probabilities_are_clipped() -> None:
    """No probability is nearer to 0 or 1 than the bound."""
    content = submission.as_probabilities(SAMPLE, PROBABILITIES, bound=0.01)
    assert content == "id,label\n2,0.990000\n1,0.250000\n10,0.500000\n"


@pytest.mark.parametrize("number", [20, 400])
def test_a_network_without_errors_is_clipped_by_their_number(number: int) -> None:
    """With no error among n photographs the bound is about 1 / (n + 1), as by Laplace's rule of succession."""
    assert submission.best_bound(np.ones(number)) == pytest.approx(1 / (number + 1), rel=0.03)


def test_confident_errors_raise_the_bound() -> None:
    """A network with confident errors is clipped further, to about their share, which lowers its log loss."""
    certain = np.array([1.0] * 96 + [0.0] * 4)
    bound = submission.best_bound(certain)
    assert bound == pytest.approx(5 / 101, rel=0.03)
    assert submission.log_loss(certain, bound=bound) < submission.log_loss(certain, bound=0.001)


def test_a_cautious_network_is_hardly_clipped() -> None:
    """Probabilities that are never near 0 or 1 stay what they are."""
    assert submission.best_bound(np.full(400, 0.9)) <= 0.1
