"""Learning curve: how the loss falls with the number of photographs, and what twice as many are likely to bring.

Linear probes are trained on parts of the photographs, each part twice as large as the one before. An inverse power law
is fitted to their losses and continued (Figueroa, Zeng-Treitler, Kandula and Ngo, 2012, "Predicting Sample Size
Required for Classification Performance"; Hestness and others, 2017, "Deep Learning Scaling is Predictable,
Empirically"). The interval is that of a bootstrap over folds, each of which has photographs and draws of its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.evaluation import linear_probe, scores
from transfer.evaluation.linear_probe import Rows
from transfer.evaluation.scores import Labels
from transfer.images import manifest
from transfer.runtime import seeding

FOLDS = 10
STRENGTH = 0.1  # of the probes: near the best for a few dozen photographs and for thousands
MIN_PHOTOGRAPHS = 4  # of each class in the smallest part, on average
MIN_SIZES = 4  # a power law with a floor has three parameters
RESAMPLES = 1000
WORTHWHILE = 0.1  # fraction of the loss; to save less is little for twice the work

Values = NDArray[np.float64]

_EXPONENTS = np.linspace(0.05, 2, 40)


class Curve(NamedTuple):
    """The losses of probes on photographs that they were not trained on.

    Args:
        sizes: the numbers of photographs trained on, rising.
        losses: mean log loss, shape (folds, sizes).
        errors: fraction of wrong predictions, shape (folds, sizes).
    """

    sizes: list[int]
    losses: Values
    errors: Values


class Estimate(NamedTuple):
    """A value with the lower and upper limit of its interval."""

    value: float
    low: float
    high: float


class Forecast(NamedTuple):
    """What the fitted law says about the present number of photographs to train on, and about twice as many.

    Args:
        photographs: the present number.
        now: log loss of a probe with so many.
        doubled: log loss with twice as many.
        saved: the fraction of the loss that twice as many save.
        line: number of photographs, log loss and its limits, from the smallest part to twice the present number.
    """

    photographs: int
    now: Estimate
    doubled: Estimate
    saved: Estimate
    line: list[tuple[float, Estimate]]


class Outlook(NamedTuple):
    """A learning curve and its forecast."""

    curve: Curve
    forecast: Forecast


def look_ahead(
    photographs: Sequence[manifest.Entry], rows: Rows, classes: Sequence[str], *, confidence: float
) -> Outlook | None:
    """Measure the learning curve of the training and validation photographs, and continue it.

    Args:
        photographs: of all splits.
        rows: their features, as `linear_probe.read_rows` returns them.
        classes: class names, in the order of their numbers.
        confidence: of the intervals, between 0 and 1.

    Returns:
        The forecast for twice as many training photographs; None if there are too few.
    """
    known = [number for number, photograph in enumerate(photographs) if photograph.split != "test"]
    curve = measure([photographs[number] for number in known], rows[known], classes)
    if curve is None:
        return None
    trained_on = sum(photograph.split == "train" for photograph in photographs)
    return Outlook(curve, forecast(curve, trained_on, confidence=confidence))


def measure(photographs: Sequence[manifest.Entry], rows: Rows, classes: Sequence[str]) -> Curve | None:
    """Train probes on parts of the photographs; return their losses, or None if there are too few photographs.

    Args:
        photographs: those that may be looked at: of the training and the validation split.
        rows: their features, as `linear_probe.read_rows` returns them.
        classes: class names, in the order of their numbers.
    """
    labels = np.array([classes.index(photograph.class_name) for photograph in photographs])
    keys = [seeding.digest("learning_curve", photograph.sha256) for photograph in photographs]
    order = np.argsort(np.array(keys, np.uint64))
    labels, rows = labels[order], rows[order]
    available = len(labels) * (FOLDS - 1) / FOLDS
    halvings = int(np.log2(max(available / (MIN_PHOTOGRAPHS * len(classes)), 1)))
    if halvings + 1 < MIN_SIZES or min(np.bincount(labels, minlength=len(classes))) < 2:
        return None
    fractions = [0.5**halving for halving in range(halvings, -1, -1)]
    measured = [_losses(labels, rows, fold, fractions, classes=len(classes)) for fold in range(FOLDS)]
    sizes, losses, errors = (np.array(part) for part in zip(*measured, strict=True))
    return Curve([round(size) for size in sizes.mean(axis=0)], losses, errors)


def _losses(
    labels: Labels, rows: Rows, fold: int, fractions: Sequence[float], *, classes: int
) -> tuple[list[int], list[float], list[float]]:
    """Return the sizes of a fold's parts, and the loss and the error rate of each part's probe on the fold."""
    held_out = _positions(labels) % FOLDS == fold
    seen = np.flatnonzero(~held_out)
    # each fold begins elsewhere in the order, so that its smallest parts are drawn anew
    seen = np.roll(seen, -fold * len(seen) // FOLDS)
    positions = _positions(labels[seen])
    counts = np.bincount(labels[seen], minlength=classes)[labels[seen]]
    sizes, losses, errors = [], [], []
    for fraction in fractions:
        used = seen[positions < np.ceil(fraction * counts)]
        predicted = linear_probe.predict(
            rows[used], labels[used], rows[held_out], classes=classes, strength=STRENGTH, balanced=False
        )
        sizes.append(len(used))
        losses.append(scores.log_loss(labels[held_out], predicted))
        errors.append(float((predicted.argmax(axis=1) != labels[held_out]).mean()))
    return sizes, losses, errors


def _positions(labels: Labels) -> NDArray[np.intp]:
    """Return how many photographs of its class are before each photograph."""
    positions = np.empty(len(labels), np.intp)
    for label in np.unique(labels):
        members = labels == label
        positions[members] = np.arange(members.sum())
    return positions


def forecast(curve: Curve, photographs: int, *, confidence: float) -> Forecast:
    """Fit an inverse power law to a curve, and continue it to twice as many photographs.

    Args:
        curve: what `measure` returned.
        photographs: the present number of photographs to train on.
        confidence: of the intervals, between 0 and 1.
    """
    folds = len(curve.losses)
    drawn = np.random.default_rng(0).integers(0, folds, (RESAMPLES, folds))
    means = np.concatenate([curve.losses.mean(axis=0)[np.newaxis], curve.losses[drawn].mean(axis=1)])
    amplitudes, exponents, floors = fit(np.array(curve.sizes, float), means)

    def at(size: float) -> Values:
        values: Values = amplitudes * size**-exponents + floors
        return values

    def estimate(values: Values) -> Estimate:
        low, high = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(values[0]), float(low), float(high))

    now, doubled = at(photographs), at(2 * photographs)
    line = np.geomspace(min(curve.sizes), 2 * photographs, 40)
    return Forecast(
        photographs,
        estimate(now),
        estimate(doubled),
        estimate(1 - doubled / now),
        [(float(size), estimate(at(size))) for size in line],
    )


def fit(sizes: Values, losses: Values) -> tuple[Values, Values, Values]:
    """Fit `amplitude * size ** -exponent + floor` to curves by least squares of the relative deviations.

    Args:
        sizes: numbers of photographs, shape (sizes,).
        losses: of each curve, shape (curves, sizes), above zero.

    Returns:
        Amplitudes and floors, zero or more, and exponents from 0.05 to 2: arrays of shape (curves,).
    """
    found = np.full((4, len(losses)), np.inf)  # sum of squares, amplitude, exponent, floor
    inverse = 1 / losses
    for exponent in _EXPONENTS:
        slope = sizes**-exponent * inverse
        for amplitude, floor in _solutions(slope, inverse):
            squares = ((amplitude[:, np.newaxis] * slope + floor[:, np.newaxis] * inverse - 1) ** 2).sum(axis=1)
            better = (squares < found[0]) & (amplitude >= 0) & (floor >= 0)
            candidates = np.stack([squares, amplitude, np.full(len(losses), exponent), floor])
            found[:, better] = candidates[:, better]
    return found[1], found[2], found[3]


def _solutions(slope: Values, constant: Values) -> list[tuple[Values, Values]]:
    """Solve `amplitude * slope + floor * constant = 1` by least squares: with both terms, and with each alone."""
    ss, sc, cc = (slope**2).sum(axis=1), (slope * constant).sum(axis=1), (constant**2).sum(axis=1)
    s, c = slope.sum(axis=1), constant.sum(axis=1)
    determinant = np.maximum(ss * cc - sc**2, np.finfo(float).tiny)
    both = (s * cc - c * sc) / determinant, (c * ss - s * sc) / determinant
    nothing = np.zeros_like(s)
    return [both, (s / ss, nothing), (nothing, c / cc)]


def sentences(outlook: Outlook | None, *, confidence: float) -> list[str]:
    """Say in words what twice as many photographs are likely to bring, or that nothing can be said.

    Args:
        outlook: what `look_ahead` returned.
        confidence: of its intervals.
    """
    if outlook is None:
        least = MIN_PHOTOGRAPHS * 2 ** (MIN_SIZES - 1)
        nothing = (
            f"Nothing can be said about more photographs: the curve needs about {least} of each class or more in "
            "training and validation."
        )
        return [nothing]
    found = outlook.forecast
    doubled, saved = found.doubled, found.saved
    expected = (
        f"With twice as many photographs to train on, {2 * found.photographs:,} instead of {found.photographs:,}, the "
        f"log loss of a linear probe is expected to be {doubled.value:.3f} instead of {found.now.value:.3f} "
        f"({100 * confidence:g} % interval {doubled.low:.3f} to {doubled.high:.3f}): "
        f"{100 * saved.value:.0f} % less ({100 * saved.low:.0f} to {100 * saved.high:.0f} %)."
    )
    return [expected, _advice(saved)]


def _advice(saved: Estimate) -> str:
    if saved.low >= WORTHWHILE:
        return "So more photographs are likely to help."
    if saved.high < WORTHWHILE:
        return "So more photographs of the same kind are likely to help little."
    return "So they may help much or little: these photographs do not tell."


def plot_rows(outlook: Outlook | None) -> list[dict[str, float | str]]:
    """Return the points of the curve, measured ones and those of the law, as DVC plots them; none without a curve."""
    if outlook is None:
        return []
    curve, found = outlook
    means = zip(curve.sizes, curve.losses.mean(axis=0), curve.errors.mean(axis=0), strict=True)
    measured: list[dict[str, float | str]] = [
        {"kind": "measured", "photographs": size, "log_loss": float(loss), "error": float(error)}
        for size, loss, error in means
    ]
    return measured + [
        {"kind": "fitted", "photographs": size, "log_loss": value, "low": low, "high": high}
        for size, (value, low, high) in found.line
    ]
