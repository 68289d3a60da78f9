"""Accuracy and log loss of the recipes of `benchmarks.recipes` as far as they train on features, on the test split.

That is all of the script of bottleneck features, and the first part of the book's recipe, whose other 80 epochs take
hours. The photographs and their splits are those of the current folder, in which `split` has run; no file is changed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.recipes import BATCH, HEAD_EPOCHS, RECIPES, dense_head, extractor, read_pixels
from transfer.evaluation import scores
from transfer.images import manifest
from transfer.network import weights
from transfer.network.backend import keras
from transfer.runtime import paths

SPLITS = ("train", "validation", "test")


def features(model: keras.Model, entries: Sequence[manifest.Entry], size: int) -> np.ndarray:
    """Return the features of photographs, shape (photographs, height, width, channels), float32."""
    batches = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]
    return np.concatenate([model.predict_on_batch(_pixels(batch, size)) for batch in batches])


def _pixels(batch: Sequence[manifest.Entry], size: int) -> np.ndarray:
    folder = paths.artifact("subsample")
    return np.stack([read_pixels((folder / entry.path).read_bytes(), size=size) for entry in batch])


def trained_head(name: str, inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> keras.Model:
    """Train a recipe's head; the book keeps the epoch with the lowest validation loss, the script the last one."""
    head = dense_head(inputs["train"].shape[1:], [], "rmsprop")
    best = keras.callbacks.EarlyStopping(patience=HEAD_EPOCHS[name], restore_best_weights=True)
    head.fit(
        inputs["train"],
        labels["train"],
        batch_size=BATCH,
        epochs=HEAD_EPOCHS[name],
        validation_data=(inputs["validation"], labels["validation"]),
        callbacks=[best] if name == "book" else [],
        verbose=0,
    )
    return head


def describe(head: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> str:
    """Return the scores of a head."""
    of_second = head.predict(inputs, batch_size=BATCH, verbose=0).astype(np.float64)
    probabilities, numbers = np.hstack([1 - of_second, of_second]), labels[:, 0].astype(int)
    accuracy = (probabilities.argmax(axis=1) == numbers).mean()
    loss = scores.log_loss(numbers, probabilities)
    return f"{accuracy:.1%} of {len(labels)} test photographs, log loss {loss:.3f}"


def score(name: str, imagenet: weights.Weights, entries: Sequence[manifest.Entry], seeds: int) -> None:
    """Train a recipe's head on the training split with several seeds, and print its scores on the test split."""
    size = RECIPES[name][1]
    model, second = extractor(name, imagenet, size=size), max(entry.class_name for entry in entries)
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
