"""Seconds to a trained network by recipes that people run instead, and by this project, on the same photographs.

- `book`: 'Deep Learning with Python', 2nd edition (Chollet, 2021), chapter 8: VGG16 at 180 pixels; a dense head on its
  features, 20 epochs; then the frozen base with augmentation in the network, 50 epochs; then the last four layers of
  the base unfrozen, RMSprop at 1e-5, 30 epochs.
- `bottleneck`: the common script of bottleneck features: 150 pixels divided by 255, VGG16's output flattened, a dense
  head, 50 epochs.
- `project`: all stages with the defaults of params.yaml, features included.

The first two are written from their descriptions. They take hours, so a few batches of each part are timed and
multiplied by the number of batches. `--whole` runs all of a recipe on few photographs and compares its seconds with
those computed in that way. A peak of memory is at least that of this process, some 700 MB.
"""

import argparse
import io
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.extraction import open_photographs
from benchmarks.pipeline import peak_memory, run, set_params
from flows import demo, graph
from transfer.network import vgg16, weights
from transfer.network.backend import keras

ROOT = Path(__file__).parent.parent
BATCH = 32
TIMED_BATCHES = 3  # of each part, after one that compiles it
HEAD_EPOCHS = {"book": 20, "bottleneck": 50}  # of the head on features


class Cost(NamedTuple):
    """Seconds to a trained network, and the peak of memory in megabytes."""

    seconds: float
    memory: float


class Part(NamedTuple):
    """A step of a recipe: one pass, or the epochs of a training run.

    Attributes:
        name: of the step.
        epochs: number of passes over the photographs.
        step: computes one batch of the training split.
        check: computes one batch of the validation split; none if a batch of both is the same.
    """

    name: str
    epochs: int
    step: Callable[[], object]
    check: Callable[[], object]


def base(imagenet: weights.Weights, *, trainable: Sequence[str] = ()) -> list[keras.Layer]:
    """Return preprocessing and VGG16's layers; only those named are trainable."""
    layers = vgg16.frozen_layers(imagenet, through=vgg16.POOLED)
    for layer in layers:
        layer.trainable = layer.name in trainable
    return layers


def book(imagenet: weights.Weights, pixels: np.ndarray, labels: np.ndarray) -> Iterator[Part]:
    """Yield the parts of the book's recipe for a batch of pixels, shape (batch, 180, 180, 3)."""
    yield from _features_and_head("book", imagenet, pixels, labels)
    augmentation = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(0.1),
        keras.layers.RandomZoom(0.2),
    ]
    before = [keras.Input(pixels.shape[1:]), *augmentation]
    frozen = dense_head(None, [*before, *base(imagenet)], "rmsprop")
    yield _training("frozen base, augmented", 50, frozen, pixels, labels)
    last_four = ("block5_conv1", "block5_conv2", "block5_conv3", "block5_pool")
    unfrozen = dense_head(
        None,
        [*before, *base(imagenet, trainable=last_four)],
        keras.optimizers.RMSprop(1e-5),
    )
    yield _training("last four layers unfrozen", 30, unfrozen, pixels, labels)


def bottleneck(imagenet: weights.Weights, pixels: np.ndarray, labels: np.ndarray) -> Iterator[Part]:
    """Yield the parts of the script of bottleneck features for a batch of pixels, shape (batch, 150, 150, 3)."""
    yield from _features_and_head("bottleneck", imagenet, pixels, labels)


def _features_and_head(name: str, imagenet: weights.Weights, pixels: np.ndarray, labels: np.ndarray) -> Iterator[Part]:
    model = extractor(name, imagenet, size=pixels.shape[1])
    yield _pass("features", model, pixels)
    features = model.predict_on_batch(pixels)
    head = dense_head(features.shape[1:], [], "rmsprop")
    yield _training("head on features", HEAD_EPOCHS[name], head, features, labels)


def extractor(name: str, imagenet: weights.Weights, *, size: int) -> keras.Model:
    """Return the preprocessing of a recipe and VGG16's layers."""
    preprocessing, *layers = base(imagenet)
    first = keras.layers.Rescaling(1 / 255) if name == "bottleneck" else preprocessing
    return keras.Sequential([keras.Input((size, size, 3)), first, *layers])


def dense_head(shape: tuple[int, ...] | None, below: list[object], optimizer: object) -> keras.Model:
    """Compile Flatten, Dense(256), Dropout(0.5) and a sigmoid on top of some layers or of an input of a shape."""
    layers = [
        *([keras.Input(shape)] if shape else below),
        keras.layers.Flatten(),
        keras.layers.Dense(256, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
    model = keras.Sequential(layers)
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    return model


def _pass(name: str, model: keras.Model, pixels: np.ndarray) -> Part:
    def step() -> object:
        return model.predict_on_batch(pixels)

    return Part(name, 1, step, step)


def _training(name: str, epochs: int, model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> Part:
    return Part(
        name,
        epochs,
        lambda: model.train_on_batch(inputs, labels),
        lambda: model.test_on_batch(inputs, labels),
    )


RECIPES = {"book": (book, 180), "bottleneck": (bottleneck, 150)}


def seconds_per_batch(step: Callable[[], object]) -> float:
    """Return the median seconds of a batch, after one that compiles the step."""
    step()
    times = []
    for _ in range(TIMED_BATCHES):
        start = time.monotonic()
        step()
        times.append(time.monotonic() - start)
    return statistics.median(times)


def computed_seconds(name: str, archive: Path, imagenet: weights.Weights, *, train: int, validation: int) -> float:
    """Print the milliseconds per photograph of each part of a recipe, and return the seconds of all its epochs."""
    recipe, size = RECIPES[name]
    pixels, labels = read_batch(archive, size=size)
    total = 0.0
    for part in recipe(imagenet, pixels, labels):
        step, check = seconds_per_batch(part.step), seconds_per_batch(part.check)
        seconds = part.epochs * (step * train + check * validation) / BATCH
        total += seconds
        print(
            f"{name:11}{part.name:26}{1000 * step / BATCH:7.1f} ms a photograph, {1000 * check / BATCH:6.1f} ms to "
            f"validate it; {part.epochs:2} epochs: {seconds:8.0f} s",
            flush=True,
        )
    return total


def computed_cost(name: str, archive: Path, weights_file: Path, train: int, validation: int) -> Cost:
    """Return what a recipe takes, and the peak of this process's memory."""
    seconds = computed_seconds(name, archive, weights.read(weights_file), train=train, validation=validation)
    return Cost(seconds, peak_memory(resource.getrusage(resource.RUSAGE_SELF)))


def whole_seconds(name: str, archive: Path, imagenet: weights.Weights) -> float:
    """Run every epoch of a recipe on one batch to train on and one to validate on, and return the seconds."""
    recipe, size = RECIPES[name]
    pixels, labels = read_batch(archive, size=size)
    start = time.monotonic()
    for part in recipe(imagenet, pixels, labels):
        for _ in range(part.epochs):
            part.step()
            part.check()
    return time.monotonic() - start


def read_batch(archive: Path, *, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch of both classes from Kaggle's archive: pixels from 0 to 255, float32, and labels."""
    photographs, names = open_photographs(archive)
    chosen = [*names[: BATCH // 2], *names[-BATCH // 2 :]]
    pixels = np.stack([read_pixels(photographs.read(name), size=size) for name in chosen])
    return pixels, np.array([["dog" in name] for name in chosen], np.float32)


def read_pixels(photograph: bytes, *, size: int) -> np.ndarray:
    """Decode a photograph and resize it to a square, as these recipes do: pixels from 0 to 255, float32."""
    return np.asarray(Image.open(io.BytesIO(photograph)).convert("RGB").resize((size, size)), np.float32)


def project_cost(archive: Path, weights_file: Path, *, photographs: int) -> Cost:
    """Run all stages on real photographs in a temporary workspace; print and return what they take."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        demo.prepare(ROOT, workspace)
        (workspace / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        set_params(
            workspace,
            {
                "download": {"source": "inbox"},
                "fetch_weights": {"source": "inbox"},
                "subsample": {"photographs": photographs},
            },
        )
        (workspace / "inbox").mkdir(exist_ok=True)
        for file in (archive, weights_file):
            (workspace / "inbox" / file.name).write_bytes(file.read_bytes())
        for stage in graph.declared():
            costs.append(Cost(*run(workspace, "tasks", stage)))
            print(f"project    {stage:26}{costs[-1].seconds:8.1f} s, {costs[-1].memory:6.0f} MB", flush=True)
    return Cost(sum(cost.seconds for cost in costs), max(cost.memory for cost in costs))


def draw(seconds: dict[str, float], file: Path) -> None:
    """Draw the seconds of each recipe, and of the project last, as bars on a logarithmic scale."""
    figure = Figure(figsize=(8, 0.6 + 0.6 * len(seconds)), layout="constrained")
    axes = figure.subplots()
    *others, own = seconds
    bars = axes.barh(list(seconds), list(seconds.values()), color=["#b9b9c6"] * len(others) + ["#3557a5"])
    axes.bar_label(bars, [f"{time:,.0f} s" for time in seconds.values()], padding=4)
    axes.invert_yaxis()
    axes.set(
        xscale="log", xlim=(10, 3 * max(seconds.values())), xlabel=f"seconds to a trained network; {own}: measured"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120, metadata={"Software": None})


def main(options: argparse.Namespace) -> None:
    """Time the recipes and the project, and print the ratios."""
    if not {"DOGS_VS_CATS_PHOTOS", "DOGS_VS_CATS_WEIGHTS"} <= os.environ.keys():
        sys.exit("DOGS_VS_CATS_PHOTOS and DOGS_VS_CATS_WEIGHTS must name Kaggle's archive and VGG16's weights.")
    archive, weights_file = Path(os.environ["DOGS_VS_CATS_PHOTOS"]), Path(os.environ["DOGS_VS_CATS_WEIGHTS"])
    if options.whole:
        imagenet = weights.read(weights_file)
        computed = computed_seconds(options.whole, archive, imagenet, train=BATCH, validation=BATCH)
        seconds = whole_seconds(options.whole, archive, imagenet)
        print(f"{options.whole}, one batch: {seconds:.0f} s whole, {computed:.0f} s computed")
        return
    train, validation = round(0.6 * options.photographs), round(0.2 * options.photographs)
    costs = {}
    for name in RECIPES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            costs[name] = pool.submit(computed_cost, name, archive, weights_file, train, validation).result()
    own = project_cost(archive, weights_file, photographs=options.photographs)
    for name, (seconds, memory) in costs.items():
        print(
            f"{name}: {seconds:.0f} s computed, {memory:.0f} MB; the project: {own.seconds:.0f} s, "
            f"{own.memory:.0f} MB, {seconds / own.seconds:.1f} times as fast"
        )
    if options.picture:
        named = {f"{name} (computed)": cost.seconds for name, cost in costs.items()}
        draw({**named, "this project": own.seconds}, options.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description="Time recipes and this project.")
    parser.add_argument("--photographs", type=int, default=2000, help="in all splits together")
    parser.add_argument("--whole", choices=sorted(RECIPES), help="compare one whole run on a batch with its estimate")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the seconds of all of them as PNG")
    main(parser.parse_args())
