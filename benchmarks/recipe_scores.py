"""Accuracy and log loss of the recipes of `benchmarks.recipes` as far as they train on features, on the test split.

That is all of the script of bottleneck features, and the first part of the book's recipe, whose other 80 epochs take
hours. The photographs and their splits are those of the current folder, in which `split` has run; no file is changed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.recipes import BATCH, RECIPES, base, dense_head
from transfer.evaluation import scores
from transfer.images import manifest
from transfer.network import weights
from transfer.network.backend import keras
from transfer.runtime import paths

EPOCHS = {"book": 20, "bottleneck": 50}
SPLITS = ("train", "validation", "test")


def extractor(name: str, imagenet: weights.Weights, size: int) -> keras.Model:
    """Return the preprocessing of a recipe and VGG16's layers."""
    first = [keras.layers.Rescaling(1 / 255)] if name == "bottleneck" else []
    return keras.Sequential([keras.Input((size, size, 3)), *first, *base(imagenet)[len(first) :]])


def features(model: keras.Model, entries: Sequence[manifest.Entry], size: int) -> np.ndarray:
    """Return the features of photographs, shape (photographs, height, width, channels), float32."""
    batches = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]
    return np.concatenate([model.predict_on_batch(np.stack([_pixels(e, size) for e in batch])) for batch in batches])


def _pixels(entry: manifest.Entry, size: int) -> np.ndarray:
    with Image.open(paths.artifact("subsample", entry.path)) as picture:
        return np.asarray(picture.convert("RGB").resize((size, size)), np.float32)


def trained_head(name: str, inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> keras.Model:
    """Train a recipe's head; the book keeps the epoch with the lowest validation loss, the script the last one."""
    head = dense_head(inputs["train"].shape[1:], [], "rmsprop")
    best = keras.callbacks.EarlyStopping(patience=EPOCHS[name], restore_best_weights=True)
    head.fit(
        inputs["train"],
        labels["train"],
        batch_size=BATCH,
        epochs=EPOCHS[name],
        validation_data=(inputs["validation"], labels["validation"]),
        callbacks=[best] if name == "book" else [],
        verbose=0,
    )
    return head


def describe(head: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> str:
    """Return the scores of a head."""
    of_second = head.predict(inputs, batch_size=BATCH, verbose=0)[:, 0].astype(np.float64)
    of_true = np.where(labels[:, 0] == 1, of_second, 1 - of_second)
    losses = -np.log(of_true.clip(scores.EPSILON, 1))
    return f"{(of_true > 0.5).mean():.1%} of {len(labels)} test photographs, log loss {losses.mean():.3f}"


def score(name: str, imagenet: weights.Weights, entries: Sequence[manifest.Entry], seeds: int) -> None:
    """Train a recipe's head on the training split with several seeds, and print its scores on the test split."""
    size = RECIPES[name][1]
    model, second = extractor(name, imagenet, size), max(entry.class_name for entry in entries)
    inputs, labels = {}, {}
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        inputs[split] = features(model, chosen, size)
        labels[split] = np.array([[entry.class_name == second] for entry in chosen], np.float32)
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        head = trained_head(name, inputs, labels)
        print(f"{name}, seed {seed}: {describe(head, inputs['test'], labels['test'])}", flush=True)


def main(weights_file: Path, seeds: int) -> None:
    """Score each recipe."""
    imagenet, entries = weights.read(weights_file), manifest.read(paths.artifact("split", "manifest.csv"))
    for name in RECIPES:
        score(name, imagenet, entries, seeds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipe_scores", description="Score recipes on the test split."
    )
    parser.add_argument("weights", type=Path, help="of VGG16's convolutional base")
    parser.add_argument("--seeds", type=int, default=3, help="of each head")
    options = parser.parse_args()
    main(options.weights, options.seeds)
