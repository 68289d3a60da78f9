"""Loss curves: separate the trend of a loss from its noise.

A curve is compared after a running median. A rise or fall counts only if it exceeds both the noise and a minimum size.
The noise is estimated from the curve itself: from the distance of each epoch to the line between its neighbours
(Gasser, Sroka and Jennen-Steinmetz, 1986, "Residual variance and residual pattern in nonlinear regression"). The median
of these distances is used, so that single spikes do not count as noise.
"""

import math
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]  # one number an epoch

WINDOW = 5  # epochs of the running median; a quarter of the epochs of long training runs
NOISE_FACTOR = 3.0  # times the noise: the end of a flat, noisy curve lies further up in 5 % of all cases
RELATIVE_CHANGE = 0.1  # fraction of a loss: smaller changes are ignored
NEGLIGIBLE_FRACTION = 0.005  # fraction of the chance level: smaller changes are ignored

_NORMAL_MEDIAN = 0.6745  # the median of a normal variable's absolute value, in standard deviations


class LossCurve(NamedTuple):
    """The losses of a split by epoch.

    Attributes:
        raw: the losses as recorded.
        smooth: the running median of the losses.
        noise: standard deviation of the noise.
        chance: the loss at chance level, to compare losses with.
    """

    raw: Series
    smooth: Series
    noise: float
    chance: float

    @property
    def end(self) -> float:
        """The smoothed loss of the last epoch."""
        return float(self.smooth[-1])

    @property
    def lowest(self) -> float:
        """The lowest smoothed loss."""
        return float(self.smooth.min())

    @property
    def min_change(self) -> float:
        """The size that a change must exceed to count."""
        return max(RELATIVE_CHANGE * self.lowest, NEGLIGIBLE_FRACTION * self.chance)

    def last(self, part: int) -> Series:
        """Return the last 1/`part` of the smoothed losses, at least `WINDOW` epochs."""
        return self.smooth[-max(WINDOW, len(self.smooth) // part) :]

    def has_risen(self) -> bool:
        """Return whether the loss ends above its lowest point by more than the noise and the minimum change."""
        rise = self.end - self.lowest
        return rise > max(NOISE_FACTOR * self.noise, self.min_change) and self.rise_start() <= len(self.raw)

    def rise_start(self) -> int:
        """Return the epoch, from 1, after the last one within the noise of the lowest loss, smoothed or raw."""
        low = np.flatnonzero(self.smooth <= self.lowest + self.noise)
        return int(max(low[-1], self.raw.argmin())) + 2

    def is_falling(self) -> bool:
        """Return whether the loss was still falling at the end.

        It must have fallen by more than the noise in its last half, and by the minimum change in its last quarter.
        """
        significant = float(self.last(2)[0]) - self.end > NOISE_FACTOR * self.noise
        return significant and float(self.last(4)[0]) - self.end > self.min_change


def loss_curve(losses: Series, *, classes: int) -> LossCurve:
    """Return the curve of log losses by epoch; the chance level of so many classes is ln(classes)."""
    return LossCurve(losses, smoothed(losses), _noise(losses), chance=math.log(classes))


def smoothed(values: Series) -> Series:
    """Return the running median; the window is truncated at both ends."""
    half = max(WINDOW, len(values) // 4) // 2
    return np.array([median(values[max(0, index - half) : index + half + 1]) for index in range(len(values))])


def _noise(values: Series) -> float:
    """Estimate the standard deviation of the noise of three or more values.

    The residual of a value against the mean of its neighbours has sqrt(3/2) times the noise's standard deviation. Only
    the second half is used, as the first epochs are steep and curved.
    """
    residuals = values[1:-1] - (values[:-2] + values[2:]) / 2
    late = residuals[-max(WINDOW, len(residuals) // 2) :]
    return float(math.sqrt(2 / 3) * np.median(np.abs(late)) / _NORMAL_MEDIAN)
