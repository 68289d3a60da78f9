"""Augmentation: copies of a photograph as another shot would have shown it, through one affine map.

Resizing is part of the map, so a view is interpolated once, from the photograph's own pixels.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from transfer.images.decoding import BACKGROUND, Box, Pixels, Resizing, crop_box
from transfer.runtime.params import Section

Matrix = NDArray[np.float64]  # 2 x 3: linear part and shift

Fill = Literal["reflect", "nearest", "wrap", "constant"]
_PAD_MODES = {"reflect": "symmetric", "nearest": "edge", "wrap": "wrap"}
_SUPERSAMPLING = 2  # samples a pixel and axis, averaged: the map itself does not smooth when it shrinks


class Params(Section):
    """How far a view may differ from the photograph; every value is drawn evenly from its range."""

    horizontal_flip: bool
    vertical_flip: bool
    rotation: float = Field(ge=0, le=360, description="degrees, to either side up to half a turn")
    shift: float = Field(ge=0, le=0.5, description="part of the edge, in each of the four directions")
    zoom: float = Field(ge=1, le=1.6, description="largest factor, nearer or farther")
    shear: float = Field(ge=0, le=20, description="degrees, to either side")
    stretch: float = Field(ge=1, le=1.3, description="largest factor, wider or higher")
    fill: Fill

    def changes_anything(self) -> bool:
        """Whether a view can differ from the photograph at all."""
        off = {"zoom": 1, "stretch": 1, "fill": self.fill}
        return any(value != off.get(name, 0) for name, value in self.model_dump().items())


def matrix(params: Params, random: np.random.Generator) -> Matrix:
    """Draw one view's map.

    Returns:
        Array of shape (2, 3): where in the photograph a point of the view comes from, both in coordinates whose
        origin is the middle of the frame and whose unit is the frame's edge.
    """
    horizontal, vertical, turn, zoom, shear, stretch, right, down = random.uniform(-1, 1, 8)
    angle = math.radians(turn * min(params.rotation, 180))
    slant = math.tan(math.radians(shear * params.shear))
    nearer, wider = params.zoom**zoom, params.stretch ** (stretch / 2)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shearing = np.array([[1.0, slant], [0.0, 1.0]])
    scaling = np.diag([1 / (nearer * wider), wider / nearer])
    flips = np.diag(
        [
            -1.0 if params.horizontal_flip and horizontal < 0 else 1.0,
            -1.0 if params.vertical_flip and vertical < 0 else 1.0,
        ]
    )
    linear = flips @ rotation @ shearing @ scaling
    shift = params.shift * np.array([right, down])
    return np.column_stack([linear, -linear @ shift])


def view(image: Image.Image, mapping: Matrix, *, size: int, resizing: Resizing, fill: Fill) -> Pixels:
    """Show a photograph through a map.

    Args:
        image: 8-bit RGB.
        mapping: as `matrix` draws it.
        size: edge of the view, in pixels.
        resizing: as in `photos.resized`.
        fill: what lies beyond the photograph's edges. "fit" shows its background there, as it does without
            augmentation.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.
    """
    box = crop_box(image.width, image.height, resizing)
    samples = size * _SUPERSAMPLING
    image, box = _reduced(image, box, samples)
    to_source = _compose(mapping, box, samples)
    if resizing != "fit" and fill != "constant":
        image, to_source = _padded(image, to_source, samples, fill)
    shown = image.transform(
        (samples, samples),
        Image.Transform.AFFINE,
        tuple(to_source.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=BACKGROUND,
    )
    return np.asarray(shown.reduce(_SUPERSAMPLING))


def _reduced(image: Image.Image, box: Box, samples: int) -> tuple[Image.Image, Box]:
    """Average whole blocks of a photograph that is far larger than what is asked of it."""
    across, down = (int((box[2] - box[0]) // samples), int((box[3] - box[1]) // samples))
    if across < 2 and down < 2:
        return image, box
    factors = (max(1, across), max(1, down))
    left, top, right, bottom = box
    return image.reduce(factors), (left / factors[0], top / factors[1], right / factors[0], bottom / factors[1])


def _compose(mapping: Matrix, box: Box, samples: int) -> Matrix:
    """The map from the view's samples to the photograph's pixels."""
    left, top, right, bottom = box
    edges = np.diag([right - left, bottom - top])
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    linear = edges @ mapping[:, :2] / samples
    shift = edges @ mapping[:, 2] + middle - linear @ np.full(2, samples / 2)
    return np.column_stack([linear, shift])


def _padded(image: Image.Image, to_source: Matrix, samples: int, fill: Fill) -> tuple[Image.Image, Matrix]:
    """Continue a photograph beyond its edges as far as the map reaches."""
    corners = np.array([[x, y, 1] for x in (0, samples) for y in (0, samples)]) @ to_source.T
    before = np.maximum(0, np.ceil(-corners.min(axis=0) + 1)).astype(int)
    after = np.maximum(0, np.ceil(corners.max(axis=0) - [image.width, image.height] + 1)).astype(int)
    padding = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    continued = np.pad(np.asarray(image), padding, mode=_PAD_MODES[fill])  # type: ignore[call-overload]
    return Image.fromarray(continued), to_source + np.column_stack([np.zeros((2, 2)), before])
