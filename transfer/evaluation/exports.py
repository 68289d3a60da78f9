"""Exports: a network in other formats, each measured and checked against the network itself."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation import consistency
from transfer.evaluation.scores import Probabilities
from transfer.images.decoding import Pixels
from transfer.network import litert, saving
from transfer.network.backend import keras
from transfer.network.card import ExportFormat
from transfer.runtime import progress
from transfer.runtime.errors import DataError

# The largest allowed difference in log odds to the predictions of the network itself. Measured with ImageNet's weights
# on test photographs at 288 pixels, docs/results.md: 0.0042 for ONNX, 0.18 for 8-bit integers; at 224 pixels 0.57 for
# these. Channels in another order or missing preprocessing cause differences of several units.
TOLERANCES: dict[ExportFormat, float] = {"onnx": 0.05, "litert": 0.05, "litert_int8": 1.5}

_STEP = 1 / 256  # between the probabilities of a network with 8-bit integers


class Exported(NamedTuple):
    """A network in another format: the file's content, and a function that runs it on one photograph in its runtime."""

    content: bytes
    function: Callable[..., Any]


class Measurement(NamedTuple):
    """What an exported network takes and gives.

    Attributes:
        bytes: the file's size.
        photographs_per_second: one photograph at a time, on all cores.
        log_odds_difference: the largest one to the network itself, in log odds of a class.
        changed_predictions: photographs for which another class is the most probable one.
    """

    bytes: int
    photographs_per_second: float
    log_odds_difference: float
    changed_predictions: int


def export(network: keras.Model, form: ExportFormat, *, samples: Sequence[Pixels]) -> Exported:
    """Convert a network to a format.

    Args:
        network: a network as `fine_tune` saves it.
        form: the format.
        samples: photographs of the network's image size, which give the ranges of 8-bit integers.

    Raises:
        ModuleNotFoundError: the packages of the format are not installed.
    """
    match form:
        case "onnx":
            from transfer.network import onnx_model  # noqa: PLC0415 - it needs packages of its own

            content = onnx_model.convert(network)
            return Exported(content, onnx_model.function(content))
        case "litert":
            content = litert.convert(network)
        case "litert_int8":
            content = litert.convert(network, samples=samples)
    return Exported(content, litert.function(content))


def predict(function: Callable[..., Any], photographs: Sequence[Pixels], *, name: str) -> Probabilities:
    """Predict photographs one at a time.

    Args:
        function: a network, or a function with the same call.
        photographs: of shape (height, width, 3).
        name: of the network, for the progress bar.

    Returns:
        Array of shape (photographs, classes).

    Raises:
        DataError: a probability is not finite.
    """
    rows = []
    with progress.bar(total=len(photographs), description=f"export {name}", unit="photographs") as bar:
        for photograph in photographs:
            rows.append(saving.predict(function, photograph[np.newaxis]))
            bar.update()
    return np.concatenate(rows)


def measure(
    exported: Exported, photographs: Sequence[Pixels], expected: Probabilities, form: ExportFormat
) -> Measurement:
    """Compare an exported network with the predictions of the network itself.

    Args:
        exported: the network.
        photographs: of shape (height, width, 3), at least one.
        expected: the predictions of the network itself, shape (photographs, classes).
        form: the format.
    """
    least = _STEP if form == "litert_int8" else consistency.MIN_PROBABILITY
    exported.function(photographs[0][np.newaxis], training=False)  # the first call prepares the runtime
    start = time.perf_counter()
    received = predict(exported.function, photographs, name=form)
    seconds = time.perf_counter() - start
    log_odds = [consistency.log_odds(probabilities, least=least) for probabilities in (expected, received)]
    return Measurement(
        bytes=len(exported.content),
        photographs_per_second=round(len(photographs) / seconds, 2),
        log_odds_difference=float(np.abs(np.subtract(*log_odds)).max()),
        changed_predictions=int((expected.argmax(axis=1) != received.argmax(axis=1)).sum()),
    )


def check(measurement: Measurement, form: ExportFormat, *, temperature: float = 1.0) -> None:
    """Check that an exported network agrees with the network itself, within `TOLERANCES`.

    Args:
        measurement: of the exported network.
        form: its format.
        temperature: of the network; below 1 it multiplies differences in log odds, and the tolerance with them.

    Raises:
        DataError: it does not.
    """
    tolerance = TOLERANCES[form] / min(temperature, 1.0)
    if measurement.log_odds_difference > tolerance:
        raise DataError(
            f"The network as `{form}` must predict the same as model.keras, up to {tolerance:.3g} in log odds. "
            f"Received: a difference of {measurement.log_odds_difference:.3g}. Remove `{form}` from `export.formats`."
        )


def describe(form: ExportFormat, measurement: Measurement) -> str:
    """Return a line about an exported network."""
    return (
        f"{form}: {measurement.bytes / 1e6:.1f} MB, {measurement.photographs_per_second:g} photographs/s, "
        f"log odds differ by at most {measurement.log_odds_difference:.2g}, "
        f"{measurement.changed_predictions} of the checked photographs change their class"
    )
