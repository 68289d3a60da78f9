"""Drawings that stand in for photographs: the class is told by the shape alone, everything else is chance."""

import io
import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SCALE = 2  # drawn larger and reduced, for smooth edges
_QUALITY = 90  # of JPEG
_NOISE = 12.0  # standard deviation, of 255
_CONTRAST = 90  # least difference between shape and ground in one of the three colours


def _polygon(corners: int) -> list[Point]:
    turns = [math.tau * corner / corners for corner in range(corners)]
    return [(math.sin(turn), -math.cos(turn)) for turn in turns]


def _star(points: int, inner: float) -> list[Point]:
    return [
        (x * radius, y * radius) for (x, y), radius in zip(_polygon(2 * points), [1.0, inner] * points, strict=True)
    ]


def _cross(arm: float) -> list[Point]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [(quarter, 1, 0), (quarter, 0, 1), (quarter, -1, 0), (quarter, 0, -1)]
    return [(x * cosine - y * sine, x * sine + y * cosine) for part, cosine, sine in turned for x, y in part]


SHAPES: dict[str, Sequence[Point]] = {  # outlines within the unit circle or a little beyond
    "circle": _polygon(60),
    "triangle": _polygon(3),
    "square": _polygon(4),
    "star": _star(5, 0.4),
    "cross": _cross(0.35),
}


def draw(class_name: str, index: int, *, size: int, seed: int) -> bytes:
    """Draw a picture with one shape in it, its place, size, rotation and colours by chance.

    Args:
        class_name: a name of `SHAPES`.
        index: the picture's number in its class.
        size: edge in pixels.
        seed: the picture follows from (seed, class_name, index, size) alone.

    Returns:
        A JPEG file.
    """
    chance = random.Random(f"{seed}/{class_name}/{index}")  # noqa: S311 - chance for pictures, not for secrets
    ground, shape = _colours(chance)
    image = Image.new("RGB", (size * _SCALE, size * _SCALE), ground)
    pen = ImageDraw.Draw(image)
    _distract(pen, chance, size * _SCALE)
    pen.polygon(_placed(SHAPES[class_name], chance, size * _SCALE), fill=shape)
    return _jpeg(_noisy(image.resize((size, size), Image.Resampling.BOX), chance))


def _colours(chance: random.Random) -> tuple[Colour, Colour]:
    while True:
        first, second = _colour(chance), _colour(chance)
        if max(abs(a - b) for a, b in zip(first, second, strict=True)) >= _CONTRAST:
            return first, second


def _colour(chance: random.Random) -> Colour:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)


def _distract(pen: ImageDraw.ImageDraw, chance: random.Random, edge: int) -> None:
    """Lines behind the shape, so that no single pixel or edge tells the class."""
    for _ in range(chance.randrange(4)):
        ends = [(chance.uniform(0, edge), chance.uniform(0, edge)) for _ in range(2)]
        pen.line(ends, fill=_colour(chance), width=max(1, edge // 60))


def _placed(outline: Sequence[Point], chance: random.Random, edge: int) -> list[Point]:
    radius = chance.uniform(0.22, 0.4) * edge
    x, y = (chance.uniform(radius, edge - radius) for _ in range(2))
    turn = chance.uniform(0, math.tau)
    cosine, sine = math.cos(turn) * radius, math.sin(turn) * radius
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in outline]


def _noisy(image: Image.Image, chance: random.Random) -> Image.Image:
    generator = np.random.default_rng(chance.getrandbits(64))
    noise = generator.normal(0, _NOISE, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
