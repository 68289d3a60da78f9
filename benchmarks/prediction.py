"""Prediction against extraction and the bare network, photographs a second; and how long the first answer takes.

Each measurement is a process of its own, as a user starts it.
"""

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
PLAIN, EXPLAINED = "prediction", "prediction with heat maps"
IMPORT = "import tensorflow, keras"


class Timing(NamedTuple):
    """A prediction of many photographs: seconds to the first answer, and photographs a second from there on."""

    first: float
    rate: float


def write_model(folder: Path) -> Path:
    """Leave a network as `fine_tune` saves it, of random weights, with its card."""
    from transfer.backend import keras

    from transfer.network import card as cards
    from transfer.network import heads, saving, vgg16, weights

    drawn = weights.random(seed=0)
    settings = heads.Params(
        pooling="max", batch_normalization=True, dense=[256], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    head = heads.build(settings, feature_map=vgg16.shape_after(vgg16.POOLED, image_size=SIZE), classes=2, seed=0)
    layers = [*vgg16.frozen_layers(drawn, through="block4_pool"), *vgg16.top_layers(drawn, above="block4_pool"), head]
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3), dtype="uint8"), *layers])
    card = cards.describe(["cat", "dog"], {"image_size": SIZE, "resizing": "crop"}, {}, {}, {})
    saving.write(folder / "model.keras", network, card)
    return folder / "model.keras"


def predicted(model: Path, photographs: Path, *options: str) -> Timing:
    """Predict a folder as a user does, and look at the clock as the answers arrive."""
    began = time.monotonic()
    command = [sys.executable, "-m", "transfer.prediction", str(photographs), "--model", str(model), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(), text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is what `PIPE` gives
        _, *arrived = [time.monotonic() - began for _ in process.stdout]
    return Timing(arrived[0], (len(arrived) - 1) / (arrived[-1] - arrived[0]))


def seconds(*command: str) -> float:
    """How long a process takes from its start to its end."""
    began = time.monotonic()
    subprocess.run([sys.executable, *command], env=_environment(), capture_output=True, check=True)
    return time.monotonic() - began


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "TF_ENABLE_ONEDNN_OPTS": "1", "KERAS_BACKEND": "tensorflow"}


def show(title: str, values: Mapping[str, Sequence[float]], *, base: str) -> None:
    """Print medians, spreads and the median ratio to what all is compared with."""
    print(title)
    for kind, each in values.items():
        ratio = statistics.median(value / other for value, other in zip(each, values[base], strict=True))
        spread = f"({min(each):.2f} to {max(each):.2f})"
        print(f"{kind:32} {statistics.median(each):6.2f} {spread:18} {ratio:6.1%} of {base}")


def main() -> None:
    """Measure in turns and print rates, times and ratios."""
    rates: dict[str, list[float]] = {kind: [] for kind in ("bare", "extraction", PLAIN, EXPLAINED)}
    times: dict[str, list[float]] = {kind: [] for kind in (IMPORT, "first answer of many", "one photograph")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photographs")
        folder.mkdir()
        extraction.write_photographs(folder)
        model = write_model(Path(scratch))
        one = next(folder.glob("*.jpg"))
        for _ in range(ROUNDS):
            for kind in ("bare", "extraction"):
                rates[kind].append(extraction.measure(kind, folder))
            plain, explained = predicted(model, folder), predicted(model, folder, "--heatmaps", f"{scratch}/seen")
            for kind, timing in ((PLAIN, plain), (EXPLAINED, explained)):
                rates[kind].append(timing.rate)
            times[IMPORT].append(seconds("-c", IMPORT))
            times["first answer of many"].append(plain.first)
            times["one photograph"].append(seconds("-m", "transfer.prediction", str(one), "--model", str(model)))
    measured = f"{SIZE} px, {extraction.PHOTOGRAPHS} photographs, {ROUNDS} rounds"
    show(f"{measured}; photographs a second: median (lowest to highest)", rates, base="extraction")
    show("Seconds from the start of Python: median (lowest to highest)", times, base=IMPORT)


if __name__ == "__main__":
    main()
