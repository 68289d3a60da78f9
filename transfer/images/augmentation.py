"""Augmentation: random affine views of a photograph.

Resizing is part of the affine map, so a view is interpolated only once, from the photograph's own pixels.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from transfer.images.decoding import BACKGROUND, Box, Pixels, Resizing, crop_box
from transfer.runtime.params import Section

Matrix = NDArray[np.float64]  # 2 x 3: linear part and translation

Fill = Literal["reflect", "nearest", "wrap", "constant"]
_PAD_MODES = {"reflect": "symmetric", "nearest": "edge", "wrap": "wrap"}
_SUPERSAMPLING = 2  # samples per pixel and axis, averaged: Pillow's affine transform does not smooth when it shrinks


class Params(Section):
    """Limits of the random transformations; each value is drawn uniformly from its range."""

    horizontal_flip: bool
    vertical_flip: bool
    rotation: float = Field(ge=0, le=360, description="degrees, in both directions; above 180 acts like 180")
    shift: float = Field(ge=0, le=0.5, description="fraction of the edge, in each of the four directions")
    zoom: float = Field(ge=1, le=1.6, description="largest factor, in or out")
    shear: float = Field(ge=0, le=20, description="degrees, in both directions")
    stretch: float = Field(ge=1, le=1.3, description="largest factor, wider or higher")
    fill: Fill

    def changes_anything(self) -> bool:
        """Return whether any transformation is switched on."""
        off = {"zoom": 1, "stretch": 1, "fill": self.fill}
        return any(value != off.get(name, 0) for name, value in self.model_dump().items())


def matrix(params: Params, random: np.random.Generator) -> Matrix:
    """Draw the affine map of one view.

    Returns:
        Array of shape (2, 3) that maps a point of the view to a point of the photograph. Both use coordinates whose
        origin is the middle of the frame and whose unit is the frame's edge.
    """
    horizontal, vertical, turn, zoom, shear, stretch, right, down = random.uniform(-1, 1, 8)
    angle = math.radians(turn * min(params.rotation, 180))
    slant = math.tan(math.radians(shear * params.shear))
    zoom_factor, width_factor = params.zoom**zoom, params.stretch ** (stretch / 2)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shearing = np.array([[1.0, slant], [0.0, 1.0]])
    scaling = np.diag([1 / (zoom_factor * width_factor), width_factor / zoom_factor])
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
    """Render a view of a photograph.

    Args:
        image: 8-bit RGB.
        mapping: the affine map, as `matrix` returns it.
        size: edge of the view, in pixels.
        resizing: as in `decoding.resize`.
        fill: how the area beyond the photograph's edges is filled. With `resizing` "fit" it is filled with
            `decoding.BACKGROUND`, as it is without augmentation.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.
    """
    box = crop_box(image.width, image.height, resizing)
    samples = size * _SUPERSAMPLING
    image, box = _reduce(image, box, samples)
    to_source = _compose(mapping, box, samples)
    if resizing != "fit" and fill != "constant":
        image, to_source = _pad(image, to_source, samples, fill)
    supersampled = image.transform(
        (samples, samples),
        Image.Transform.AFFINE,
        tuple(to_source.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=BACKGROUND,
    )
    return np.asarray(supersampled.reduce(_SUPERSAMPLING))


def _reduce(image: Image.Image, box: Box, samples: int) -> tuple[Image.Image, Box]:
    """Shrink a photograph by an integer factor, averaging pixels, where it is at least twice the size needed."""
    left, top, right, bottom = box
    across, down = int((right - left) // samples), int((bottom - top) // samples)
    if across < 2 and down < 2:
        return image, box
    factors = (max(1, across), max(1, down))
    return image.reduce(factors), (left / factors[0], top / factors[1], right / factors[0], bottom / factors[1])


def _compose(mapping: Matrix, box: Box, samples: int) -> Matrix:
    """Return the affine map from the view's samples to the photograph's pixels."""
    left, top, right, bottom = box
    edges = np.diag([right - left, bottom - top])
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    linear = edges @ mapping[:, :2] / samples
    shift = edges @ mapping[:, 2] + middle - linear @ np.full(2, samples / 2)
    return np.column_stack([linear, shift])


def _pad(image: Image.Image, to_source: Matrix, samples: int, fill: Fill) -> tuple[Image.Image, Matrix]:
    """Pad a photograph as far as the view reaches beyond its edges."""
    corners = np.array([[x, y, 1] for x in (0, samples) for y in (0, samples)]) @ to_source.T
    before = np.maximum(0, np.ceil(-corners.min(axis=0) + 1)).astype(int)
    after = np.maximum(0, np.ceil(corners.max(axis=0) - [image.width, image.height] + 1)).astype(int)
    widths = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    padded = np.pad(np.asarray(image), widths, mode=_PAD_MODES[fill])  # type: ignore[call-overload]
    return Image.fromarray(padded), to_source + np.column_stack([np.zeros((2, 2)), before])
