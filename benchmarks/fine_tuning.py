"""The time of an epoch of fine-tuning from cached activations, and of an epoch of the full network.

Both train the same layers on the same photographs with the same compiled step, in turns in one process. The full
network takes its pixels from memory, the other reads its rows from the disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tasks import fine_tune, train_head
from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import heads, vgg16, weights
from transfer.network.backend import keras
from transfer.runtime import params
from transfer.training import fit

PHOTOGRAPHS = 96
SIZE = 224
BATCH = 32
ROUNDS = 3
BOUNDARY = "block4_pool"


def head() -> keras.Model:
    """Build the head that params.yaml describes."""
    settings = params.load("train_head", train_head.Params).head
    feature_map = vgg16.shape_after(vgg16.POOLED, image_size=SIZE)
    return heads.build(settings, feature_map=feature_map, classes=2, seed=0)


def cached_views(folder: Path, pixels: np.ndarray, imagenet: weights.Weights) -> dataset.FeatureDataset:
    """Compute and write the rows of `pixels`, and return them as the dataset of the stage `fine_tune`."""
    recipe = {"benchmark": True}
    store.write_recipes(folder, [recipe])
    frozen = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *vgg16.frozen_layers(imagenet, through=BOUNDARY)])
    entries = [manifest.Entry(str(n), "ab"[n % 2], f"{n:064}", SIZE, SIZE, "train") for n in range(len(pixels))]
    for entry, activation in zip(entries, frozen.predict(pixels, batch_size=BATCH, verbose=0), strict=True):
        row = store.to_row(activation, activation[:1, :1])
        path = folder / "0" / f"{entry.sha256}.npz"
        store.write_row(path, row, recipe=store.recipe_digest(recipe), photo=entry.sha256)
    return dataset.FeatureDataset(folder, entries, classes=["a", "b"], part="boundary", batch_size=BATCH, seed=0)


def seconds(model: keras.Model, *data: object) -> float:
    """Return the seconds of one epoch."""
    start = time.monotonic()
    model.fit(*data, batch_size=BATCH if len(data) == 2 else None, epochs=1, verbose=0)
    return time.monotonic() - start


def main() -> None:
    """Measure in turns, after one epoch of each that compiles the step, and print the ratio."""
    imagenet = weights.random(seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOGRAPHS, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(PHOTOGRAPHS) % 2).astype(np.float32)[:, None]
    top = keras.Sequential(
        [
            keras.Input(vgg16.shape_after(BOUNDARY, image_size=SIZE)),
            *vgg16.top_layers(imagenet, above=BOUNDARY),
            head(),
        ]
    )
    full = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8"),
            *vgg16.frozen_layers(imagenet, through=BOUNDARY),
            *vgg16.top_layers(imagenet, above=BOUNDARY),
            head(),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        cached = cached_views(Path(folder), pixels, imagenet)
        settings = params.load("fine_tune", fine_tune.Params).training
        for model in (top, full):
            fit.compile_model(model, settings, batches=len(cached))
        rounds = [(seconds(full, pixels, labels), seconds(top, cached)) for _ in range(ROUNDS + 1)][1:]
    ratios = [slow / fast for slow, fast in rounds]
    print(f"{SIZE} px, {PHOTOGRAPHS} photographs per epoch, {ROUNDS} rounds; milliseconds per photograph: median")
    for name, times in zip(("full network", "from the cache"), zip(*rounds, strict=True), strict=True):
        print(f"{name:16} {1000 * statistics.median(times) / PHOTOGRAPHS:7.1f}")
    print(f"ratio            {statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning", description="Measure the time of an epoch of fine-tuning."
    ).parse_args()
    main()
