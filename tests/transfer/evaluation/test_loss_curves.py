import numpy as np
import pytest

from transfer.evaluation import loss_curves
from transfer.evaluation.loss_curves import loss_curve

EPOCHS = np.arange(30)
FALLING = 0.5 * np.exp(-EPOCHS / 10)
FLAT = np.full(30, 0.2)
RISING = np.where(EPOCHS < 15, 0.1, 0.1 + 0.02 * (EPOCHS - 14))


def test_the_chance_level_follows_from_the_number_of_classes() -> None:
    """The chance level of a log loss is the logarithm of the number of classes."""
    assert loss_curve(FLAT, classes=2).chance == pytest.approx(np.log(2))
    assert loss_curve(FLAT, classes=10).chance == pytest.approx(np.log(10))


def test_the_running_median_removes_spikes() -> None:
    """A single high value does not change the smoothed curve, even at its end."""
    for epoch in (0, 12, 29):
        spiked = FLAT.copy()
        spiked[epoch] = 5.0
        np.testing.assert_array_equal(loss_curves.smoothed(spiked), FLAT)


@pytest.mark.parametrize("deviation", [0.01, 0.1])
def test_the_noise_is_its_standard_deviation(deviation: float) -> None:
    """The noise is estimated from the curve alone, also on a slope."""
    noise = deviation * np.random.default_rng(0).normal(size=4000)
    slope = np.linspace(2, 1, 4000)
    assert loss_curve(slope + noise, classes=2).noise == pytest.approx(deviation, rel=0.1)


def test_spikes_are_no_noise() -> None:
    """A few outliers do not raise the estimated noise."""
    spiked = np.full(100, 0.2)
    spiked[[60, 80]] = 3.0
    assert loss_curve(spiked, classes=2).noise == 0


def test_a_rise_starts_after_the_lowest_loss() -> None:
    """A rise is dated to the epoch, counted from 1, after the last low one."""
    curve = loss_curve(RISING, classes=2)
    assert curve.has_risen()
    assert 16 <= curve.rise_start() <= 19
    assert not loss_curve(FALLING, classes=2).has_risen()
    assert not loss_curve(FLAT, classes=2).has_risen()


def test_a_fall_must_reach_the_end() -> None:
    """A curve is falling only if it still falls in its last quarter."""
    assert loss_curve(FALLING, classes=2).is_falling()
    assert not loss_curve(np.maximum(FALLING, 0.2), classes=2).is_falling()
    assert not loss_curve(FLAT, classes=2).is_falling()
    assert not loss_curve(RISING, classes=2).is_falling()
