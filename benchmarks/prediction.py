"""Photographs per second of prediction, extraction and the bare network, and the time to the first prediction.

Each measurement is a process of its own, as a user starts it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import extraction

SIZE = extraction.SIZE
ROUNDS = 3
PLAIN, WITH_HEAT_MAPS = "prediction", "prediction with heat maps"
IMPORT = "import tensorflow, keras"


class Timing(NamedTuple):
    """The seconds to the first prediction of many, and photographs per second after it."""

    first: float
    rate: float


def write_model(folder: Path) -> Path:
    """Write a network of random weights with its card, as `fine_tune` does, and return its path."""
    from transfer.network import card as cards
    from transfer.network import heads, saving, vgg16, weights
    from transfer.network.backend import keras

    imagenet = weights.random(seed=0)
    settings = heads.Params(
        pooling="max", batch_normalization=True, dense=[256], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    head = heads.build(settings, feature_map=vgg16.shape_after(vgg16.POOLED, image_size=SIZE), classes=2, seed=0)
    layers = [
        *vgg16.frozen_layers(imagenet, through="block4_pool"),
        *vgg16.top_layers(imagenet, above="block4_pool"),
        head,
    ]
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3), dtype="uint8"), *layers])
    card = cards.describe(["cat", "dog"], {"image_size": SIZE, "resizing": "crop"}, {}, {}, {})
    saving.write(folder / "model.keras", network, card)
    return folder / "model.keras"


def predict(model: Path, photographs: Path, *options: str) -> Timing:
    """Predict a folder by the command line, and time the lines of its output."""
    start = time.monotonic()
    command = [sys.executable, "-m", "transfer.prediction", str(photographs), "--model", str(model), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(), text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - opened because of `PIPE`
        _, *times = [time.monotonic() - start for _ in process.stdout]
    return Timing(times[0], (len(times) - 1) / (times[-1] - times[0]))


def seconds(*command: str) -> float:
    """Return the seconds of a process."""
    start = time.monotonic()
    subprocess.run([sys.executable, *command], env=_environment(), capture_output=True, check=True)
    return time.monotonic() - start


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "TF_ENABLE_ONEDNN_OPTS": "1", "KERAS_BACKEND": "tensorflow"}


def show(title: str, values: Mapping[str, Sequence[float]], *, base: str) -> None:
    """Print medians, ranges and the median ratio to the measurement `base`."""
    print(title)
    for kind, measured in values.items():
        ratio = statistics.median(value / other for value, other in zip(measured, values[base], strict=True))
        spread = f"({min(measured):.2f} to {max(measured):.2f})"
        print(f"{kind:32} {statistics.median(measured):6.2f} {spread:18} {ratio:6.1%} of {base}")


def main() -> None:
    """Measure all kinds in turns, and print rates, times and ratios."""
    rates: dict[str, list[float]] = {kind: [] for kind in ("bare", "extraction", PLAIN, WITH_HEAT_MAPS)}
    times: dict[str, list[float]] = {kind: [] for kind in (IMPORT, "first of many photographs", "one photograph")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photographs")
        folder.mkdir()
        extraction.write_photographs(folder)
        model = write_model(Path(scratch))
        photograph = next(folder.glob("*.jpg"))
        for _ in range(ROUNDS):
            for kind in ("bare", "extraction"):
                rates[kind].append(extraction.measure(kind, folder))
            plain = predict(model, folder)
            with_heat_maps = predict(model, folder, "--heatmaps", f"{scratch}/heatmaps")
            for kind, timing in ((PLAIN, plain), (WITH_HEAT_MAPS, with_heat_maps)):
                rates[kind].append(timing.rate)
            times[IMPORT].append(seconds("-c", IMPORT))
            times["first of many photographs"].append(plain.first)
            times["one photograph"].append(seconds("-m", "transfer.prediction", str(photograph), "--model", str(model)))
    setting = f"{SIZE} px, {extraction.PHOTOGRAPHS} photographs, {ROUNDS} rounds"
    show(f"{setting}; photographs per second: median (lowest to highest)", rates, base="extraction")
    show("Seconds from the start of Python: median (lowest to highest)", times, base=IMPORT)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.prediction", description="Measure the speed of predictions."
    ).parse_args()
    main()
