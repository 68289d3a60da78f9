"""Views: the pictures of a photograph that the network receives; view 0 is the photograph itself."""

from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from PIL import Image

from transfer.images import augmentation, decoding, manifest
from transfer.runtime import seeding

MIRRORED = -1  # the view that is the mirror image of view 0, left to right


class Shot(NamedTuple):
    """One view of a photograph; view 0 is the photograph itself, view `MIRRORED` its mirror image."""

    photograph: manifest.Entry
    view: int


class Drawing(NamedTuple):
    """How views are drawn.

    Args:
        image_size: edge of the square, in pixels.
        resizing: as in `decoding.resize`.
        augmentation: the ranges of the random changes.
        seed: of the random changes.
    """

    image_size: int
    resizing: decoding.Resizing
    augmentation: augmentation.Params
    seed: int


def draw_batch(
    batch: Iterable[tuple[str, int]], *, read: Callable[[str], Image.Image], drawing: Drawing
) -> decoding.Pixels:
    """Draw a few views; a photograph is read once if its views are neighbours, and only one is in memory at a time.

    Args:
        batch: for each view the sha256 of its photograph, in hexadecimal, and its number.
        read: returns the photograph with a sha256, 8-bit RGB.
        drawing: how views are drawn.

    Returns:
        Array of shape (views, size, size, 3), RGB, 0 to 255.
    """
    pictures: list[decoding.Pixels] = []
    for sha256, group in groupby(batch, key=itemgetter(0)):
        image = read(sha256)
        pictures.extend(draw(image, sha256=sha256, view=view, drawing=drawing) for _, view in group)
        del image  # before the next one is read
    return np.stack(pictures)


def draw(image: Image.Image, *, sha256: str, view: int, drawing: Drawing) -> decoding.Pixels:
    """Draw a view of a photograph; an augmented one depends on the seed, the photograph's sha256 and the view alone.

    Args:
        image: the photograph, 8-bit RGB.
        sha256: of the photograph's file, in hexadecimal.
        view: the view's number, 0 or more, or `MIRRORED`.
        drawing: how views are drawn.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.
    """
    if view in (0, MIRRORED):
        pixels = decoding.resize(image, size=drawing.image_size, resizing=drawing.resizing)
        return pixels if view == 0 else pixels[:, ::-1]
    random = np.random.default_rng(seeding.digest(drawing.seed, sha256, view))
    mapping = augmentation.matrix(drawing.augmentation, random)
    return augmentation.view(
        image, mapping, size=drawing.image_size, resizing=drawing.resizing, fill=drawing.augmentation.fill
    )
