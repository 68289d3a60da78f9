"""Measure how fast the main pipeline extracts features: that is part of the price of what stands on VGG16."""

import logging
import time
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ladder import pictures, upstream
from transfer.features import extraction, store
from transfer.images import decoding, manifest
from transfer.network import weights
from transfer.runtime import files, params, paths, progress, stage

log = logging.getLogger(__name__)

STAGE = "measure_extraction"


class Params(params.Section):
    """How much is measured."""

    photographs: int = Field(ge=1, le=10_000, description="of the training split, at most")


def seconds_per_row(photographs: Sequence[manifest.Entry], imagenet: weights.Weights, recipe: store.Recipe) -> float:
    """How long a row takes from a photograph's file to its activations, on all cores; the rows are let go.

    A batch is computed before the clock starts, as the first one takes seconds to prepare.
    """

    def pixels(batch: Sequence[manifest.Entry]) -> decoding.Pixels:
        folder, size, resizing = upstream.artifact("subsample"), recipe["image_size"], recipe["resizing"]
        return np.stack([pictures.square(folder, each, size=size, resizing=resizing) for each in batch])

    extraction.use_one_thread_per_replica()
    compute = extraction.build_network(imagenet, image_size=recipe["image_size"], boundary=recipe["boundary"])
    compute(pixels(photographs[:1]))
    began = time.monotonic()
    with progress.bar(total=len(photographs), description=STAGE, unit="rows") as bar:
        for done in extraction.extract(photographs, pixels=pixels, compute=compute, put=lambda *_: None):
            bar.update(done)
    return (time.monotonic() - began) / len(photographs)


def main() -> None:
    """Write artifacts/measure_extraction/metrics.json."""
    settings = params.load(STAGE, Params)
    photographs = manifest.read(upstream.artifact("split", "manifest.csv"))
    sample = [entry for entry in photographs if entry.split == "train"][: settings.photographs]
    imagenet = weights.read(upstream.artifact("fetch_weights", "vgg16.weights.h5"))
    recipe = store.read_recipe(upstream.artifact("extract_features", "0", "recipe.json"))
    seconds = seconds_per_row(sample, imagenet, recipe)
    log.info("%s: %.3f seconds a row, over %d photographs.", STAGE, seconds, len(sample))
    files.write_json(
        paths.artifact(STAGE, "metrics.json"), {"photographs": len(sample), "seconds_per_row": round(seconds, 4)}
    )


if __name__ == "__main__":
    stage.run(main)
