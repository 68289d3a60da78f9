import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pytest

from transfer.evaluation import learning_curve
from transfer.evaluation.learning_curve import Curve, Estimate, Forecast, Outlook
from transfer.evaluation.linear_probe import Rows
from transfer.images import manifest

SIZES = [20, 40, 80, 160, 320, 640, 1280]


def photographs(count: int) -> list[manifest.Entry]:
    """Return entries of cats and dogs in turn, a fifth of them for testing."""
    return [
        manifest.Entry(
            f"{number}.jpg",
            ("cat", "dog")[number % 2],
            hashlib.sha256(number.to_bytes(4, "big")).hexdigest(),
            8,
            8,
            ("train", "train", "train", "validation", "test")[number // 2 % 5],
        )
        for number in range(count)
    ]


def features(entries: Sequence[manifest.Entry]) -> Rows:
    """Return features in which the classes overlap, in few of many channels."""
    labels = np.array([entry.class_name == "dog" for entry in entries])
    rows = np.random.default_rng(0).normal(size=(len(entries), 60))
    rows[:, :20] += 0.5 * labels[:, np.newaxis]
    return rows.astype(np.float32)


def curve(*, exponent: float, floor: float = 0.0, noise: float = 0.0) -> Curve:
    """Return the curve of a power law, with noise that is the same in relation to each value."""
    law = 2 * np.array(SIZES, float) ** -exponent + floor
    losses = law * np.exp(noise * np.random.default_rng(0).normal(size=(learning_curve.FOLDS, len(SIZES))))
    return Curve(SIZES, losses, losses / 10)


@pytest.mark.parametrize(("exponent", "floor"), [(0.5, 0.0), (0.3, 0.05), (1.0, 0.1)])
def test_a_power_law_is_found_again(exponent: float, floor: float) -> None:
    """Amplitude, exponent and floor of points on a power law are fitted exactly, and continue to twice as many."""
    fitted = learning_curve.fit(np.array(SIZES, float), curve(exponent=exponent, floor=floor).losses[:2])
    np.testing.assert_allclose(np.array(fitted), np.array([[2, 2], [exponent] * 2, [floor] * 2]), atol=1e-6)
    found = learning_curve.forecast(curve(exponent=exponent, floor=floor), 1000, confidence=0.95)
    assert found.doubled.value == pytest.approx(2 * 2000**-exponent + floor)


def test_a_curve_that_does_not_fall_continues_flat() -> None:
    """If more photographs make the loss no lower, or higher, the law is a constant, and nothing is promised."""
    rising = Curve(SIZES, np.tile(np.linspace(0.3, 0.4, len(SIZES)), (learning_curve.FOLDS, 1)), np.zeros((10, 7)))
    found = learning_curve.forecast(rising, 1000, confidence=0.95)
    assert found.saved == Estimate(0, 0, 0)
    assert 0.3 < found.doubled.value < 0.4


def test_the_interval_is_as_wide_as_the_noise() -> None:
    """With little noise the value is right, with more the interval is wider; the line ends at twice the number."""
    quiet, noisy = (
        learning_curve.forecast(curve(exponent=0.5, noise=noise), 1000, confidence=0.95) for noise in (0.02, 0.3)
    )
    assert quiet.doubled.value == pytest.approx(2 * 2000**-0.5, rel=0.1)
    assert quiet.doubled.low <= quiet.doubled.value <= quiet.doubled.high
    assert quiet.saved.high - quiet.saved.low < noisy.saved.high - noisy.saved.low
    assert quiet.line[-1] == (pytest.approx(2000), quiet.doubled)


def test_the_curve_is_that_of_training_and_validation() -> None:
    """Losses fall with the number of photographs, no test photograph is looked at, and the order does not matter."""
    entries = photographs(400)
    rows = features(entries)
    outlook = learning_curve.look_ahead(entries, rows, ["cat", "dog"], confidence=0.95)
    assert outlook
    means = outlook.curve.losses.mean(axis=0)
    assert outlook.curve.sizes[-1] == 288  # nine tenths of 320
    assert outlook.forecast.photographs == 240
    assert means[0] > means[-2] > means[-1]
    tests = np.array([entry.split == "test" for entry in entries])
    order = np.random.default_rng(1).permutation(400)
    changed = np.where(tests[:, np.newaxis], 1e3, rows).astype(np.float32)[order]
    again = learning_curve.look_ahead([entries[each] for each in order], changed, ["cat", "dog"], confidence=0.95)
    assert again
    np.testing.assert_array_equal(again.curve.losses, outlook.curve.losses)


def test_too_few_photographs_have_no_curve() -> None:
    """Then the words say so, and there is nothing to plot."""
    entries = photographs(60)
    outlook = learning_curve.look_ahead(entries, features(entries), ["cat", "dog"], confidence=0.95)
    assert outlook is None
    [sentence] = learning_curve.sentences(outlook, confidence=0.95)
    assert sentence.startswith("Nothing can be said about more photographs")
    assert learning_curve.plot_rows(outlook) == []


def outlook(*, low: float, high: float) -> Outlook:
    """Return an outlook in which twice as many photographs save a fraction of the loss between two limits."""
    saved = Estimate((low + high) / 2, low, high)
    found = Forecast(1200, Estimate(0.05, 0.04, 0.06), Estimate(0.04, 0.03, 0.05), saved, [])
    return Outlook(curve(exponent=0.5), found)


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [(0.12, 0.3, "likely to help"), (0.0, 0.05, "likely to help little"), (0.02, 0.3, "may help much or little")],
)
def test_the_advice_follows_from_the_interval(low: float, high: float, advice: str) -> None:
    """More photographs are recommended only if the whole interval says so."""
    expected, last = learning_curve.sentences(outlook(low=low, high=high), confidence=0.95)
    assert re.search(rf"{advice}\W", last)
    assert "2,400 instead of 1,200" in expected
    assert f"({100 * low:.0f} to {100 * high:.0f} %)" in expected
