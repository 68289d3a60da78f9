"""Photographs per second of extraction, from files to rows, and of the bare network, in float32 and in bfloat16.

The bare network takes pixels from memory and has no output. The ratio of the precisions tells whether the parameter
`precision: auto` chooses the faster one on a machine.

Each measurement is a process of its own, because TensorFlow sets up threads and oneDNN when it starts.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

PHOTOGRAPHS = 96
SIZE = 224
BATCH = 32
ROUNDS = 3


class Kind(NamedTuple):
    """What is measured, and in which precision."""

    work: Literal["bare", "extraction", "views", "without-onednn"]
    precision: Literal["float32", "bfloat16"]


KINDS = (
    Kind("bare", "float32"),
    Kind("extraction", "float32"),
    Kind("views", "float32"),
    Kind("without-onednn", "float32"),
    Kind("bare", "bfloat16"),
    Kind("extraction", "bfloat16"),
    Kind("views", "bfloat16"),
)


def open_photographs(archive: str | Path) -> tuple[zipfile.ZipFile, list[str]]:
    """Open the labelled photographs in Kaggle's archive; return them and their names, sorted."""
    with zipfile.ZipFile(archive) as outer:
        photographs = zipfile.ZipFile(io.BytesIO(outer.read("train.zip")))
    return photographs, sorted(name for name in photographs.namelist() if name.endswith(".jpg"))


def write_photographs(folder: Path) -> None:
    """Write real photographs into `folder` if `DOGS_VS_CATS_PHOTOS` names an archive, else drawn ones of their size."""
    archive = os.environ.get("DOGS_VS_CATS_PHOTOS")
    if archive:
        photographs, names = open_photographs(archive)
        for name in names[:PHOTOGRAPHS]:
            (folder / Path(name).name).write_bytes(photographs.read(name))
    else:
        from transfer.sources import synthetic

        for number in range(PHOTOGRAPHS):
            (folder / f"{number}.jpg").write_bytes(synthetic.draw("cat", number, size=432, seed=0))


def bare(precision: str) -> float:
    """Return photographs per second of the network alone, on one batch in memory, with TensorFlow's default threads."""
    from transfer.network import vgg16, weights
    from transfer.network.backend import keras, tf

    imagenet = weights.random(seed=0)
    layers = [
        *vgg16.frozen_layers(imagenet, through="block4_pool", dtype=precision),
        *vgg16.top_layers(imagenet, above="block4_pool", dtype=precision),
    ]
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    forward = tf.function(lambda pixels: model(pixels, training=False))
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, SIZE, SIZE, 3)), tf.float32)
    forward(pixels)
    start = time.monotonic()
    for _ in range(PHOTOGRAPHS // BATCH):
        forward(pixels).numpy()
    return PHOTOGRAPHS / (time.monotonic() - start)


def extract(folder: Path, *, views: bool, precision: Literal["float32", "bfloat16"]) -> float:
    """Return photographs per second of the stage: read, decode, resize or augment, compute, write rows."""
    from tasks import extract_features
    from transfer.features import extraction, store
    from transfer.images import manifest
    from transfer.network import weights
    from transfer.runtime import files, params

    settings = params.load("extract_features", extract_features.Params).model_copy(update={"image_size": SIZE})
    shots = [
        extract_features.Shot(manifest.Entry(path.name, "", files.sha256(path), 0, 0), int(views))
        for path in folder.glob("*.jpg")
    ]
    extraction.use_one_thread_per_replica()
    compute = extraction.build_network(
        weights.random(seed=0), image_size=SIZE, boundary="block4_pool", precision=precision
    )
    compute(np.zeros((1, SIZE, SIZE, 3), np.uint8))

    def put(shot: extract_features.Shot, row: store.Row) -> None:
        path = folder / f"{shot.photograph.sha256}.npz"
        store.write_row(path, row, recipe="0" * 64, photo=shot.photograph.sha256)

    def pixels(batch: list[extract_features.Shot]) -> np.ndarray:
        return extract_features.pixels(batch, settings=settings, folder=folder)

    start = time.monotonic()
    done = sum(extraction.extract(shots, pixels=pixels, compute=compute, put=put))
    return done / (time.monotonic() - start)


def measure(kind: Kind, folder: Path) -> float:
    """Return the photographs per second of one kind of measurement, made in a process of its own."""
    one_dnn = "0" if kind.work == "without-onednn" else "1"
    result = subprocess.run(
        [sys.executable, __file__, *kind, str(folder)],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": one_dnn, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def median_ratio(values: list[float], base: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def main() -> None:
    """Measure all kinds in turns, and print rates and ratios."""
    from transfer.network import precision

    rates: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        for _ in range(ROUNDS):
            for kind in KINDS:
                rates[kind].append(measure(kind, Path(folder)))
    print(f"{SIZE} px, {PHOTOGRAPHS} photographs, {ROUNDS} rounds; photographs per second: median (lowest to highest)")
    for kind, values in rates.items():
        ratio = median_ratio(values, rates[Kind("bare", kind.precision)])
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{kind.work:15}{kind.precision:10} {statistics.median(values):6.2f} {spread:18} {ratio:6.1%} of bare")
    gain = median_ratio(rates[Kind("extraction", "bfloat16")], rates[Kind("extraction", "float32")])
    print(f"extraction in bfloat16 against float32: {gain:.2f} times; here, `auto` means {precision.choose('auto')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description="Measure the extraction.")
    parser.add_argument("work", nargs="?", help="measure only this, in this process: bare, extraction, ...")
    parser.add_argument("precision", nargs="?", choices=["float32", "bfloat16"])
    parser.add_argument("folder", nargs="?", type=Path, help="of the photographs")
    options = parser.parse_args()
    if options.work is None:
        main()
    elif options.work in {"bare", "without-onednn"}:
        print(bare(options.precision))
    else:
        print(extract(options.folder, views=options.work == "views", precision=options.precision))
