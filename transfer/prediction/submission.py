"""Submission: predictions for a competition in Kaggle's format, clipped against a large log loss."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from transfer.runtime import files
from transfer.sources.competition import Sample

UNKNOWN = 0.5  # the probability of a photograph that cannot be read

_BOUNDS = np.geomspace(1e-6, 0.25, 500)  # candidates, 2.5 % apart


def best_bound(probabilities: NDArray[np.float64]) -> float:
    """Return the distance from 0 and 1 to which probabilities are clipped for the smallest log loss to be expected.

    It is the one with the smallest log loss on these photographs and on one more, which is predicted wrongly with
    certainty. Without that one, a network with no confident error among them would be clipped nowhere, and a single
    error among many others costs it any amount. With no error at all among n photographs it is 1 / (n + 1), which is
    about what Laplace's rule of succession gives.

    Args:
        probabilities: of the true class of each photograph, shape (photographs,). They must be photographs that the
            network was not trained on.
    """
    bounds = _BOUNDS[:, np.newaxis]
    losses = -np.log(np.clip(probabilities, bounds, 1 - bounds)).sum(axis=1) - np.log(_BOUNDS)
    return float(_BOUNDS[losses.argmin()])


def log_loss(probabilities: NDArray[np.float64], *, bound: float) -> float:
    """Return the mean log loss of photographs, the probabilities of whose true classes are clipped."""
    return float(-np.log(np.clip(probabilities, max(bound, 1e-15), 1 - bound)).mean())


def as_labels(sample: Sample, probabilities: Mapping[str, float]) -> str:
    """Return a submission with the label of each photograph, 1 where its probability is above one half.

    Args:
        sample: the columns and the ids in their order.
        probabilities: of the label 1, by id.
    """
    return files.csv_text(sample.columns, [[each, int(probabilities[each] > UNKNOWN)] for each in sample.ids])


def as_probabilities(sample: Sample, probabilities: Mapping[str, float], *, bound: float) -> str:
    """Return a submission with the probability of the label 1 of each photograph, clipped to `bound` from 0 and 1."""
    rows = [[each, f"{min(max(probabilities[each], bound), 1 - bound):.6f}"] for each in sample.ids]
    return files.csv_text(sample.columns, rows)
