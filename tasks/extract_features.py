"""Extract features: the activations of the frozen layers for every photograph and its augmented views."""

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from transfer.features import cache, cluster, extraction, store, views
from transfer.features.cache import FeatureCache
from transfer.features.cluster_job import Inputs, Job
from transfer.features.views import MIRRORED, Shot
from transfer.images import augmentation, contact_sheet, decoding, manifest
from transfer.network import mirroring, precision, vgg16, weights
from transfer.network.precision import Precision, PrecisionChoice
from transfer.runtime import disk, files, params, paths, progress

log = logging.getLogger(__name__)

STAGE = "extract_features"
PHOTOGRAPHS_SHOWN, VIEWS_SHOWN = 6, 6  # on the contact sheet

# Compressed size of a row as a fraction of its float16 size, by boundary: measured with ImageNet's weights and
# photographs at 224 pixels. Smaller sizes and random weights, as in the demo, take up to twice as much.
COMPRESSED_FRACTION = {
    "block1_pool": 0.81,
    "block2_pool": 0.74,
    "block3_pool": 0.57,
    "block4_pool": 0.37,
    "block5_conv1": 0.35,
    "block5_conv2": 0.33,
}


class Params(params.Section):
    """What the features follow from; every value is part of the recipe."""

    image_size: int = Field(ge=vgg16.MIN_IMAGE_SIZE, le=decoding.MAX_SIZE, description="edge of the square, pixels")
    resizing: decoding.Resizing
    frozen_through: Literal["block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_conv1", "block5_conv2"]
    views: int = Field(ge=0, le=64, description="augmented copies of each training photograph")
    augmentation: augmentation.Params
    mirror: bool = Field(description="whether the network predicts from a photograph and its mirror image")
    precision: PrecisionChoice = Field(description="number format of the base's layers")
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _views_differ(self) -> "Params":
        if self.views and not self.augmentation.changes_anything():
            raise ValueError(
                "`views` must be 0 where all of `augmentation` is off, as views would be copies of the photograph. "
                f"Received: {self.views}"
            )
        return self

    @model_validator(mode="after")
    def _mirroring_network_can_be_loaded(self) -> "Params":
        if self.mirror and self.image_size > mirroring.MAX_IMAGE_SIZE:
            raise ValueError(
                f"`mirror` must be false with an `image_size` above {mirroring.MAX_IMAGE_SIZE}, as the network would "
                f"take more memory than a network may. Received: {self.image_size}"
            )
        return self


def recipe(settings: Params, *, weights_sha256: str, view: int, computed_in: Precision) -> store.Recipe:
    """Return everything that a row of this view follows from, besides the photograph."""
    augmented = {"view": view, "seed": settings.seed, **settings.augmentation.model_dump()}
    return {
        "version": store.RECIPE_VERSION,
        "weights": weights_sha256,
        "image_size": settings.image_size,
        "resizing": settings.resizing,
        "preprocessing": "vgg16",
        "boundary": settings.frozen_through,
        "dtype": "float16",
        "augmentation": augmented if view > 0 else None,
        **({"mirrored": True} if view == MIRRORED else {}),
        # rows in float32 keep the recipe that they had before there was a choice, and need not be computed again
        **({} if computed_in == "float32" else {"precision": computed_in}),
    }


def shots(photographs: Sequence[manifest.Entry], *, views: int, mirror: bool = False) -> list[Shot]:
    """Return view 0 of every photograph, views 1 to `views` of the training photographs, and mirror images.

    Training photographs have none: a mirrored view to train on improved no network, see docs/results.md.

    Args:
        photographs: of all splits.
        views: number of augmented views.
        mirror: whether to return the mirror images of validation and test photographs, too.
    """
    of_train, of_others = range(1 + views), (0, MIRRORED) if mirror else (0,)
    return [
        Shot(photograph, view)
        for photograph in photographs
        for view in (of_train if photograph.split == "train" else of_others)
    ]


def row_shapes(settings: Params) -> list[tuple[int, ...]]:
    """Return the shapes of a row's activations: at the boundary, and at the end of the base."""
    layers = (settings.frozen_through, vgg16.POOLED)
    return [vgg16.shape_after(layer, image_size=settings.image_size) for layer in layers]


def row_bytes(settings: Params) -> int:
    """Estimate how many bytes of disk space a row takes."""
    values = sum(math.prod(shape) for shape in row_shapes(settings))
    fraction = COMPRESSED_FRACTION[settings.frozen_through]
    return disk.size_on_disk([int(fraction * values * np.dtype(np.float16).itemsize)])


def space_needed(settings: Params, *, rows: int, missing: int) -> dict[Path, int]:
    """Estimate the disk space that the run needs; rows in artifacts need none where they are hard links to the cache.

    Args:
        settings: the size of a row follows from them.
        rows: the number of rows in the artifacts.
        missing: how many of them have to be computed.

    Returns:
        Bytes for the folder of the feature cache and for the folder of the artifacts.
    """
    cached, artifacts = paths.cache("features"), paths.artifact(STAGE)
    copied = 0 if disk.can_hard_link(cached, artifacts) else rows
    sheet_bytes = PHOTOGRAPHS_SHOWN * (1 + VIEWS_SHOWN) * settings.image_size**2 // 2  # half a byte per pixel
    small_files = [1] * (settings.views + 2 + settings.mirror)  # a recipe.json for each view, and rows.json
    return {
        cached: missing * row_bytes(settings),
        artifacts: copied * row_bytes(settings) + disk.size_on_disk([sheet_bytes, *small_files]),
    }


def pixels(batch: Sequence[Shot], *, settings: Params, folder: Path) -> decoding.Pixels:
    """Return the pictures of a few shots, an array of shape (shots, size, size, 3); see `views.draw_batch`."""
    photographs = {shot.photograph.sha256: shot.photograph for shot in batch}
    return views.draw_batch(
        ((shot.photograph.sha256, shot.view) for shot in batch),
        read=lambda sha256: decoding.read_photo(folder / photographs[sha256].path, sha256=sha256),
        drawing=_drawing(settings),
    )


def _drawing(settings: Params) -> views.Drawing:
    return views.Drawing(settings.image_size, settings.resizing, settings.augmentation, settings.seed)


def example_sheet(photographs: Sequence[manifest.Entry], settings: Params, folder: Path) -> Image.Image:
    """Draw a contact sheet of a few training photographs with some of their views, as the network receives them."""
    train = sorted(
        (photograph for photograph in photographs if photograph.split == "train"),
        key=lambda photograph: photograph.sha256,
    )
    views = range(1 + min(settings.views, VIEWS_SHOWN))
    rows = [
        pixels([Shot(photograph, view) for view in views], settings=settings, folder=folder)
        for photograph in train[:PHOTOGRAPHS_SHOWN]
    ]
    return contact_sheet.draw(rows, ["original", *(f"view {view}" for view in views[1:])])


def main() -> None:
    """Compute the rows that the feature cache lacks, and write artifacts/extract_features/ from it."""
    settings = params.load(STAGE, Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    weights_file = paths.artifact("fetch_weights", "vgg16.weights.h5")
    weights_sha256 = files.sha256(weights_file)
    computed_in = precision.choose(settings.precision)

    recipes = {
        view: recipe(settings, weights_sha256=weights_sha256, view=view, computed_in=computed_in)
        for view in [*range(settings.views + 1), *([MIRRORED] if settings.mirror else [])]
    }
    caches = {view: FeatureCache(of_view, shapes=row_shapes(settings)) for view, of_view in recipes.items()}
    rows = shots(photographs, views=settings.views, mirror=settings.mirror)
    missing = _missing(rows, caches)
    _log_rows(rows, missing)

    needed = space_needed(settings, rows=len(rows), missing=len(missing))
    _make_space(needed, keep={caches[shot.view].path(shot.photograph.sha256) for shot in rows})
    with disk.space_for(needed):
        files.write_json(paths.scratch(STAGE, "rows.json"), {"rows": len(rows), "reused": len(rows) - len(missing)})
        if missing:
            _compute(missing, settings, _inputs(settings, weights_sha256, computed_in), caches)
        _write(rows, recipes, caches, example_sheet(photographs, settings, paths.artifact("subsample")))
    cache.evict_least_recently_used()


def _log_rows(rows: Sequence[Shot], missing: Sequence[Shot]) -> None:
    log.info("%s: %d rows, %d of them computed before.", STAGE, len(rows), len(rows) - len(missing))
    if mirrored := sum(shot.view == MIRRORED for shot in rows):
        log.info("%s: %d of the rows are of mirror images, as `mirror` is on.", STAGE, mirrored)


def _missing(rows: Sequence[Shot], caches: Mapping[int, FeatureCache]) -> list[Shot]:
    """Return the shots whose rows the feature cache lacks; the others are marked as used."""
    with (
        ThreadPoolExecutor(extraction.core_count()) as pool,
        progress.bar(total=len(rows), description=f"{STAGE}, rows looked up", unit="rows") as bar,
    ):
        missing = []
        cached = pool.map(lambda shot: caches[shot.view].has(shot.photograph.sha256), rows)
        for shot, is_cached in zip(rows, cached, strict=True):
            if not is_cached:
                missing.append(shot)
            bar.update()
        return missing


def _make_space(needed: dict[Path, int], *, keep: set[Path]) -> None:
    """Evict rows of other runs from the feature cache if its disk has too little space."""
    folder = paths.cache("features")
    if evicted := cache.make_space(disk.shortage(needed)[folder], keep=keep):
        log.warning(
            "%s: the disk of %s is full; evicted %d rows of other runs from the feature cache.", STAGE, folder, evicted
        )


def _compute(missing: Sequence[Shot], settings: Params, inputs: Inputs, caches: Mapping[int, FeatureCache]) -> None:
    """Compute rows, on a cluster if Dask's configuration names one, and put them into the feature cache."""
    address = cluster.scheduler_address()
    log.info("%s: computing in %s.", STAGE, inputs.network["precision"])
    extraction.use_one_thread_per_replica()
    compute = extraction.build_network(weights.read(inputs.weights), **inputs.network)
    read = partial(pixels, settings=settings, folder=inputs.folder)

    def put(shot: Shot, row: store.Row) -> None:
        caches[shot.view].put(shot.photograph.sha256, row)

    with progress.bar(total=len(missing), description=STAGE, unit="rows") as bar:
        if address is None:
            for count in extraction.extract(missing, pixels=read, compute=compute, put=put):
                bar.update(count)
        else:
            job = Job(inputs, compute=lambda batch: compute(read(batch)), put=put, advance=bar.update)
            cluster.extract(missing, address=address, job=job)


def _inputs(settings: Params, weights_sha256: str, computed_in: Precision) -> Inputs:
    """Return what rows follow from, besides their photographs and views."""
    return Inputs(
        folder=paths.artifact("subsample"),
        weights=paths.artifact("fetch_weights", "vgg16.weights.h5"),
        weights_sha256=weights_sha256,
        drawing=_drawing(settings),
        network={
            "image_size": settings.image_size,
            "boundary": settings.frozen_through,
            "precision": computed_in,
        },
        shapes=row_shapes(settings),
    )


def _write(
    rows: Sequence[Shot], recipes: Mapping[int, store.Recipe], caches: Mapping[int, FeatureCache], sheet: Image.Image
) -> None:
    """Write recipes, rows linked from the feature cache, and the contact sheet."""
    with files.atomic_folder(paths.artifact(STAGE)) as folder:
        store.write_recipes(folder, recipes)
        for shot in rows:
            caches[shot.view].link(shot.photograph.sha256, folder / store.folder_name(shot.view))
        sheet.save(folder / "augmentation.jpg", quality=90)
