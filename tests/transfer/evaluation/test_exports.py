import numpy as np
import pytest

from tests import exportable
from transfer.evaluation import exports
from transfer.runtime.errors import DataError


def test_agreement_is_measured_in_log_odds() -> None:
    """A network that answers as the original agrees; the largest difference and other classes are counted."""
    photographs = list(exportable.pixels(3))
    expected = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    rows = iter([[0.5], *np.array([[0.5], [0.6], [0.8]], np.float32)])  # the first call prepares the runtime
    exported = exports.Exported(b"12345", lambda *_, **__: np.array([next(rows)]))
    measured = exports.measure(exported, photographs, expected, "onnx")
    assert measured.bytes == 5
    assert measured.photographs_per_second > 0
    assert measured.log_odds_difference == pytest.approx(np.log(0.9 / 0.1) + np.log(0.6 / 0.4))
    assert measured.changed_predictions == 1


def test_a_format_that_predicts_something_else_is_refused() -> None:
    """The message has the difference and the parameter to change; each format has its own tolerance."""
    measured = exports.Measurement(1, 1.0, 0.5, 0)
    with pytest.raises(
        DataError, match=r"`litert` must predict the same .* a difference of 0\.5\. Remove `litert` from"
    ):
        exports.check(measured, "litert")
    exports.check(measured, "litert_int8")


def test_a_low_temperature_widens_the_tolerance() -> None:
    """A temperature below 1 multiplies the differences of rounding, too, and one above 1 leaves the tolerance."""
    measured = exports.Measurement(1, 1.0, 2.0, 0)
    exports.check(measured, "litert_int8", temperature=0.5)
    with pytest.raises(DataError, match=r"up to 1\.5 in log odds"):
        exports.check(measured, "litert_int8", temperature=2.0)
