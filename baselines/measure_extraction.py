"""Measure the speed of feature extraction in the main pipeline, which is part of the cost of its networks."""

import logging
import time
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from baselines import parameters
from transfer.features import extraction, store
from transfer.images import decoding, manifest
from transfer.network import weights
from transfer.runtime import files, params, paths, progress

log = logging.getLogger(__name__)

STAGE = "measure_extraction"


class Params(params.Section):
    """The size of the measurement."""

    photographs: int = Field(ge=1, le=10_000, description="of the training split, at most")


def seconds_per_row(photographs: Sequence[manifest.Entry], imagenet: weights.Weights, recipe: store.Recipe) -> float:
    """Return the seconds from a photograph's file to its activations on all cores; no row is kept.

    One batch is computed before the clock starts, because the first call takes seconds to compile.
    """

    def pixels(batch: Sequence[manifest.Entry]) -> decoding.Pixels:
        folder, size, resizing = paths.artifact("subsample"), recipe["image_size"], recipe["resizing"]
        return np.stack([decoding.read_square(folder, entry, size=size, resizing=resizing) for entry in batch])

    extraction.use_one_thread_per_replica()
    compute = extraction.build_network(
        imagenet,
        image_size=recipe["image_size"],
        boundary=recipe["boundary"],
        precision=store.precision(recipe),
    )
    compute(pixels(photographs[:1]))
    start = time.monotonic()
    with progress.bar(total=len(photographs), description=STAGE, unit="rows") as bar:
        for done in extraction.extract(photographs, pixels=pixels, compute=compute, put=lambda *_: None):
            bar.update(done)
    return (time.monotonic() - start) / len(photographs)


def main() -> None:
    """Write artifacts/baselines/measure_extraction/metrics.json."""
    settings = parameters.load(STAGE, Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    sample = [entry for entry in photographs if entry.split == "train"][: settings.photographs]
    imagenet = weights.read(paths.artifact("fetch_weights", "vgg16.weights.h5"))
    recipe = store.read_recipe(paths.artifact("extract_features", "0", "recipe.json"))

    seconds = seconds_per_row(sample, imagenet, recipe)

    log.info("%s: %.3f seconds per row, measured on %d photographs.", STAGE, seconds, len(sample))
    metrics = {"photographs": len(sample), "seconds_per_row": round(seconds, 4)}
    files.write_json(paths.artifact("baselines", STAGE, "metrics.json"), metrics)
