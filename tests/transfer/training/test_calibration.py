"""Temperatures: when one improves a network's probabilities, and when the network stays as it is."""

import numpy as np
import pytest

from transfer.training import calibration
from transfer.training.calibration import Labels, Probabilities


def calibrated(photographs: int, classes: int, *, mean: float = 4.0) -> tuple[Labels, Probabilities]:
    """Return labels drawn from the probabilities of a network, which is therefore calibrated."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(photographs, classes))
    logits[np.arange(photographs), np.arange(photographs) % classes] += mean
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([random.choice(classes, p=row) for row in probabilities]), probabilities


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("distortion", [0.4, 4.0])
def test_wrong_confidence_is_mended(classes: int, distortion: float) -> None:
    """A network that is far too confident, or too little, gets the temperature that makes it calibrated."""
    labels, probabilities = calibrated(1000, classes)
    distorted = calibration.at_temperature(probabilities, distortion)
    temperature = calibration.choose_temperature(labels, distorted)
    assert temperature == pytest.approx(1 / distortion, rel=0.25)
    mended = calibration.at_temperature(distorted, temperature)
    assert calibration.losses(labels, mended).mean() < calibration.losses(labels, distorted).mean()
    np.testing.assert_array_equal(mended.argmax(axis=1), distorted.argmax(axis=1))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_calibrated_network_stays_as_it_is(classes: int) -> None:
    """An improvement within chance is none."""
    assert calibration.choose_temperature(*calibrated(400, classes)) == 1


def test_a_split_without_errors_asks_for_no_boundless_confidence() -> None:
    """The best epoch was chosen on this split: one error more is likely elsewhere, and must not cost more."""
    labels = np.arange(400) % 2
    probabilities = np.where(labels[:, np.newaxis] == np.arange(2), 0.98, 0.02)
    assert calibration.fit_temperature(labels, probabilities) < 0.2
    assert calibration.choose_temperature(labels, probabilities) == 1


def test_too_few_photographs_are_no_evidence() -> None:
    """With fewer than 20 photographs nothing is fitted."""
    labels, probabilities = calibrated(19, 2)
    assert calibration.choose_temperature(labels, calibration.at_temperature(probabilities, 0.1)) == 1
