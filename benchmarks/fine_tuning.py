"""The time of an epoch of fine-tuning from cached activations in both precisions, and of one of the full network.

All train the same layers on the same photographs with the same compiled step, in turns in one process, with the head
and the picture size of params.yaml. The full network takes its pixels from memory, the others read their rows from the
disk; `bare` is the compiled step of each precision alone, on batches in memory.
"""

import argparse
import statistics
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np

from tasks import extract_features, fine_tune, train_head
from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import heads, precision, vgg16, weights
from transfer.network.backend import keras
from transfer.runtime import params
from transfer.training import fit

PHOTOGRAPHS = 96
BATCH = 32
ROUNDS = 3
BOUNDARY = "block4_pool"


@cache
def image_size() -> int:
    """Return the pixels per edge that params.yaml names."""
    return params.load("extract_features", extract_features.Params).image_size


def head() -> keras.Model:
    """Build the head that params.yaml describes."""
    settings = params.load("train_head", train_head.Params)
    feature_map = vgg16.shape_after(vgg16.POOLED, image_size=image_size())
    return heads.build(settings.head, feature_map=feature_map, classes=2, seed=0, number=settings.heads)


def top_in(computed_in: precision.Precision, imagenet: weights.Weights) -> keras.Model:
    """Build the layers above the boundary, with those of the base computing in a precision."""
    dtype = precision.training_policy(computed_in)
    activations = keras.Input(vgg16.shape_after(BOUNDARY, image_size=image_size()))
    return keras.Sequential([activations, *vgg16.top_layers(imagenet, above=BOUNDARY, dtype=dtype), head()])


def cached_views(folder: Path, pixels: np.ndarray, imagenet: weights.Weights) -> dataset.FeatureDataset:
    """Compute and write the rows of `pixels`, and return them as the dataset of the stage `fine_tune`."""
    recipe = {"benchmark": True}
    store.write_recipes(folder, {0: recipe})
    frozen = keras.Sequential(
        [keras.Input((image_size(), image_size(), 3)), *vgg16.frozen_layers(imagenet, through=BOUNDARY)]
    )
    entries = [
        manifest.Entry(str(n), "ab"[n % 2], f"{n:064}", image_size(), image_size(), "train") for n in range(len(pixels))
    ]
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


def bare_seconds(model: keras.Model, batches: list[dataset.Batch]) -> float:
    """Return the seconds of the compiled step on all batches."""
    start = time.monotonic()
    for rows, labels in batches:
        model.train_on_batch(rows, labels)
    return time.monotonic() - start


def main() -> None:
    """Measure in turns, after one epoch of each that compiles the step, and print the ratios."""
    imagenet = weights.random(seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOGRAPHS, image_size(), image_size(), 3), dtype=np.uint8)
    labels = (np.arange(PHOTOGRAPHS) % 2).astype(np.float32)[:, None]
    tops = {computed_in: top_in(computed_in, imagenet) for computed_in in get_args(precision.Precision)}
    full = keras.Sequential(
        [
            keras.Input((image_size(), image_size(), 3), dtype="uint8"),
            *vgg16.frozen_layers(imagenet, through=BOUNDARY),
            *vgg16.top_layers(imagenet, above=BOUNDARY),
            head(),
        ]
    )
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        cached = cached_views(Path(folder), pixels, imagenet)
        batches = [cached[number] for number in range(len(cached))]
        settings = params.load("fine_tune", fine_tune.Params).training
        for model in (full, *tops.values()):
            fit.compile_model(model, settings, batches=len(cached))
        for _ in range(ROUNDS + 1):
            times = {"full network": seconds(full, pixels, labels)}
            for name, top in tops.items():
                times |= {f"from the cache, {name}": seconds(top, cached), f"bare, {name}": bare_seconds(top, batches)}
            rounds.append(times)
    _print_rounds(rounds[1:])


def _print_rounds(rounds: list[dict[str, float]]) -> None:
    print(
        f"{image_size()} px, {PHOTOGRAPHS} photographs per epoch, {ROUNDS} rounds; milliseconds per photograph: median"
    )
    for name in rounds[0]:
        middle = 1000 * statistics.median(times[name] for times in rounds) / PHOTOGRAPHS
        print(f"{name:25}{middle:7.1f}  {_ratio(rounds, 'full network', name)} times as fast as the full network")
    for name in get_args(precision.Precision):
        ratio = _ratio(rounds, f"from the cache, {name}", f"bare, {name}")
        print(f"an epoch from the cache takes {ratio} times as long as its bare step, {name}")


def _ratio(rounds: list[dict[str, float]], name: str, other: str) -> str:
    ratios = [times[name] / times[other] for times in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuning", description="Measure the time of an epoch of fine-tuning."
    ).parse_args()
    main()
