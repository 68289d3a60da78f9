"""Calibration: a temperature that makes a network's probabilities agree better with the rate of correct predictions.

The log odds are divided by one number, which changes no prediction: Guo, Pleiss, Sun and Weinberger, 2017, "On
Calibration of Modern Neural Networks". It is fitted on the validation split, by which the best epoch was chosen, too;
so a network makes fewer errors there than elsewhere, and a fitted temperature tends to be too low. Hence the caution
of `choose_temperature`.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Labels = NDArray[np.intp]  # class numbers, shape (photographs,)
Probabilities = NDArray[np.float64]  # shape (photographs, classes); each row sums to one

RANGE = (0.1, 10.0)  # of temperatures
_FOLDS = 10
_FEWEST = 2 * _FOLDS  # photographs to fit a temperature on
_Z = 1.645  # standard errors below 0 that a mean difference must be: a chance of 5 % if the true one is 0
_EPSILON = 1e-7  # probabilities are clipped to this distance from 0 and 1, as in the scores


def choose_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Return the temperature that clearly improves the log loss, or 1 if none does.

    It is better if the log loss, cross-validated in ten folds, is lower by more than chance, and would still be if one
    further photograph had been predicted wrongly with median confidence (as in Laplace's rule of succession): a split
    with hardly an error would otherwise ask for boundless confidence.

    Args:
        labels: class numbers of the validation photographs, in an order in which neighbours are similar, as by class.
        probabilities: a network's probabilities for these photographs.
    """
    if len(labels) < _FEWEST:
        return 1.0
    differences = _cross_validated(labels, probabilities)
    standard_error = differences.std(ddof=1) / math.sqrt(len(differences))
    temperature = fit_temperature(labels, probabilities)
    better = (
        differences.mean() + _Z * standard_error < 0
        and differences.sum() + _of_another_error(probabilities, temperature) < 0
    )
    return temperature if better else 1.0


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """Return the temperature, within `RANGE`, that minimizes the log loss."""

    def mean_loss(logarithm: float) -> float:
        return float(losses(labels, at_temperature(probabilities, math.exp(logarithm))).mean())

    low, high = map(math.log, RANGE)
    return math.exp(minimize_scalar(mean_loss, bounds=(low, high), method="bounded").x)


def at_temperature(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return the probabilities of a network whose log odds are divided by a temperature."""
    logarithms = np.log(probabilities.clip(_EPSILON, 1 - _EPSILON)) / temperature
    powers = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    scaled: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the log loss of each photograph, shape (photographs,)."""
    of_true_class = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
    loss: NDArray[np.float64] = -np.log(of_true_class.clip(_EPSILON, 1 - _EPSILON))
    return loss


def _cross_validated(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return each photograph's loss at the temperature fitted on the other folds, minus its loss at temperature 1."""
    folds = np.arange(len(labels)) % _FOLDS
    differences = np.empty(len(labels))
    for fold in range(_FOLDS):
        held_out = folds == fold
        temperature = fit_temperature(labels[~held_out], probabilities[~held_out])
        differences[held_out] = _changes(labels[held_out], probabilities[held_out], temperature)
    return differences


def _of_another_error(probabilities: Probabilities, temperature: float) -> float:
    """Return by how much a temperature raises the loss of a wrong prediction with median confidence, 0 at least."""
    confidence = float(np.median(probabilities.max(axis=1)))
    wrong = np.array([[1 - confidence, confidence]])  # the other classes together have what remains
    return max(0.0, float(_changes(np.array([0]), wrong, temperature)[0]))


def _changes(labels: Labels, probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    changed = losses(labels, at_temperature(probabilities, temperature))
    return changed - losses(labels, at_temperature(probabilities, 1.0))
