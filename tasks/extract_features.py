"""Compute what the frozen part of the network makes of every photograph and of its augmented views."""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from transfer.features import cache, extraction, store
from transfer.images import augmentation, contact_sheet, decoding, manifest
from transfer.network import vgg16, weights
from transfer.runtime import disk, files, params, paths, progress, seeding

log = logging.getLogger(__name__)

PHOTOGRAPHS_SHOWN, VIEWS_SHOWN = 6, 6  # on the contact sheet

# What compression leaves of a row, measured with ImageNet's weights and photographs at 224 pixels. Smaller sizes and
# weights that have learned nothing, as the demo's, leave up to twice as much.
STORED = {
    "block1_pool": 0.81,
    "block2_pool": 0.74,
    "block3_pool": 0.57,
    "block4_pool": 0.37,
    "block5_conv1": 0.35,
    "block5_conv2": 0.33,
}


class Params(params.Section):
    """What is computed of a photograph; all of it is part of the recipe."""

    image_size: int = Field(ge=vgg16.MIN_IMAGE_SIZE, le=decoding.MAX_SIZE, description="edge of the square, pixels")
    resizing: decoding.Resizing
    frozen_through: Literal["block1_pool", "block2_pool", "block3_pool", "block4_pool", "block5_conv1", "block5_conv2"]
    views: int = Field(ge=0, le=64, description="augmented copies of each training photograph")
    augmentation: augmentation.Params
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _views_differ(self) -> "Params":
        if self.views and not self.augmentation.changes_anything():
            raise ValueError(
                f"`views` must be 0 where all of `augmentation` is off: they would be copies. Received: {self.views}"
            )
        return self


class Shot(NamedTuple):
    """A photograph and one of its views; view 0 is the photograph itself."""

    photograph: manifest.Entry
    view: int


def recipe(settings: Params, *, weights_sha256: str, view: int) -> store.Recipe:
    """Everything a row of this view follows from, besides the photograph."""
    augmented = {"view": view, "seed": settings.seed, **settings.augmentation.model_dump()}
    return {
        "version": store.RECIPE_VERSION,
        "weights": weights_sha256,
        "image_size": settings.image_size,
        "resizing": settings.resizing,
        "preprocessing": "vgg16",
        "boundary": settings.frozen_through,
        "dtype": "float16",
        "augmentation": augmented if view else None,
    }


def shots(photographs: Sequence[manifest.Entry], *, views: int) -> list[Shot]:
    """What is to be computed: every photograph, and the views of those to train on."""
    return [
        Shot(photograph, view)
        for photograph in photographs
        for view in range(1 + (views if photograph.split == "train" else 0))
    ]


def row_bytes(settings: Params) -> int:
    """About how many bytes a row takes of the disk."""
    shapes = [
        vgg16.shape_after(layer, image_size=settings.image_size) for layer in (settings.frozen_through, vgg16.POOLED)
    ]
    numbers = sum(math.prod(shape) for shape in shapes)
    return disk.size_on_disk([int(STORED[settings.frozen_through] * numbers * np.dtype(np.float16).itemsize)])


def needs(settings: Params, *, wanted: int, missing: int) -> dict[Path, int]:
    """About how many bytes the memo and the artifacts are to take; rows take none there where they are hard links.

    Args:
        settings: what a row's size follows from.
        wanted: how many rows there will be.
        missing: how many of them are to be computed.
    """
    rows, artifacts = paths.cache("features"), paths.artifact("extract_features")
    copied = 0 if disk.can_hard_link(rows, artifacts) else wanted
    sheet = disk.size_on_disk(
        [PHOTOGRAPHS_SHOWN * (1 + VIEWS_SHOWN) * settings.image_size**2 // 2]
    )  # half a byte a pixel
    return {rows: missing * row_bytes(settings), artifacts: copied * row_bytes(settings) + sheet}


def pixels(batch: Sequence[Shot], *, settings: Params, folder: Path) -> decoding.Pixels:
    """Show a few shots, each photograph among them read once; array of shape (shots, size, size, 3)."""
    images = {
        photograph.path: decoding.read_photo(folder / photograph.path, sha256=photograph.sha256)
        for photograph in {shot.photograph for shot in batch}
    }
    return np.stack([_shown(shot, images[shot.photograph.path], settings) for shot in batch])


def _shown(shot: Shot, image: Image.Image, settings: Params) -> decoding.Pixels:
    if shot.view == 0:
        return decoding.resize(image, size=settings.image_size, resizing=settings.resizing)
    random = np.random.default_rng(seeding.digest(settings.seed, shot.photograph.sha256, shot.view))
    mapping = augmentation.matrix(settings.augmentation, random)
    return augmentation.view(
        image, mapping, size=settings.image_size, resizing=settings.resizing, fill=settings.augmentation.fill
    )


def examples(photographs: Sequence[manifest.Entry], settings: Params, folder: Path) -> Image.Image:
    """A contact sheet: a few of the photographs to train on, each with some of its views as the network sees them."""
    to_train_on = sorted((each for each in photographs if each.split == "train"), key=lambda each: each.sha256)
    views = range(1 + min(settings.views, VIEWS_SHOWN))
    rows = [
        pixels([Shot(photograph, view) for view in views], settings=settings, folder=folder)
        for photograph in to_train_on[:PHOTOGRAPHS_SHOWN]
    ]
    return contact_sheet.draw(rows, ["original", *(f"view {view}" for view in views[1:])])


def main() -> None:
    """Fill artifacts/extract_features/ from the memo, after computing into it what it lacks."""
    settings = params.load("extract_features", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    weights_file = paths.artifact("fetch_weights", "vgg16.weights.h5")
    weights_sha256 = files.sha256(weights_file)
    recipes = [recipe(settings, weights_sha256=weights_sha256, view=view) for view in range(settings.views + 1)]
    layers = (settings.frozen_through, vgg16.POOLED)
    shapes = [vgg16.shape_after(layer, image_size=settings.image_size) for layer in layers]
    memos = [cache.FeatureCache(each, shapes=shapes) for each in recipes]
    wanted = shots(photographs, views=settings.views)
    missing = _missing(wanted, memos)
    log.info("extract_features: %d rows, %d of them computed before.", len(wanted), len(wanted) - len(missing))
    needed = needs(settings, wanted=len(wanted), missing=len(missing))
    _make_room(needed, keep={memos[shot.view].path(shot.photograph.sha256) for shot in wanted})
    with disk.space_for(needed):
        if missing:
            _compute(missing, settings, weights.read(weights_file), memos)
        with files.atomic_folder(paths.artifact("extract_features")) as folder:
            store.write_recipes(folder, recipes)
            for shot in wanted:
                memos[shot.view].link(shot.photograph.sha256, folder / str(shot.view))
            sheet = examples(photographs, settings, paths.artifact("subsample"))
            sheet.save(folder / "augmentation.jpg", quality=90)
    cache.evict_least_recently_used()


def _missing(wanted: Sequence[Shot], memos: Sequence[cache.FeatureCache]) -> list[Shot]:
    with (
        ThreadPoolExecutor(extraction.core_count()) as pool,
        progress.bar(total=len(wanted), description="extract_features, rows looked up", unit="rows") as bar,
    ):
        missing = []
        for shot, there in zip(
            wanted, pool.map(lambda shot: memos[shot.view].has(shot.photograph.sha256), wanted), strict=True
        ):
            if not there:
                missing.append(shot)
            bar.update()
        return missing


def _make_room(needed: dict[Path, int], *, keep: set[Path]) -> None:
    rows = paths.cache("features")
    if forgotten := cache.make_space(disk.shortage(needed)[rows], keep=keep):
        log.warning("extract_features: the disk of %s is full: %d rows of other runs are forgotten.", rows, forgotten)


def _compute(
    missing: Sequence[Shot], settings: Params, imagenet: weights.Weights, memos: Sequence[cache.FeatureCache]
) -> None:
    extraction.use_one_thread_per_replica()
    rows = extraction.extract(
        missing,
        pixels=partial(pixels, settings=settings, folder=paths.artifact("subsample")),
        compute=extraction.build_network(imagenet, image_size=settings.image_size, boundary=settings.frozen_through),
        keep=lambda shot, row: memos[shot.view].keep(shot.photograph.sha256, row),
    )
    with progress.bar(total=len(missing), description="extract_features", unit="rows") as bar:
        for done in rows:
            bar.update(done)
