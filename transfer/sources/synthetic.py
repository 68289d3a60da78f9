"""Synthetic pictures in place of photographs: the class is the shape, everything else is random."""

import io
import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

_SCALE = 2  # the picture is drawn larger and reduced, for smooth edges
_QUALITY = 90  # of JPEG
_NOISE = 12.0  # standard deviation; pixels have 0 to 255
_CONTRAST = 90  # minimum difference between shape and background in one of the three channels


def _polygon(corners: int) -> list[Point]:
    angles = [math.tau * corner / corners for corner in range(corners)]
    return [(math.sin(angle), -math.cos(angle)) for angle in angles]


def _star(points: int, inner: float) -> list[Point]:
    return [
        (x * radius, y * radius) for (x, y), radius in zip(_polygon(2 * points), [1.0, inner] * points, strict=True)
    ]


def _cross(arm: float) -> list[Point]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    rotations = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    return [(x * cosine - y * sine, x * sine + y * cosine) for cosine, sine in rotations for x, y in quarter]


SHAPES: dict[str, Sequence[Point]] = {  # outlines around the origin, of a radius of about 1
    "circle": _polygon(60),
    "triangle": _polygon(3),
    "square": _polygon(4),
    "star": _star(5, 0.4),
    "cross": _cross(0.35),
}


def draw(class_name: str, index: int, *, size: int, seed: int) -> bytes:
    """Draw a picture of one shape with a random position, size, rotation and colours.

    Args:
        class_name: a key of `SHAPES`.
        index: the number of the picture within its class.
        size: width and height in pixels.
        seed: the picture depends on (seed, class_name, index, size) only.

    Returns:
        The bytes of a JPEG file.
    """
    rng = random.Random(f"{seed}/{class_name}/{index}")  # noqa: S311 - for pictures, not for secrets
    background, fill = _contrasting_colours(rng)
    image = Image.new("RGB", (size * _SCALE, size * _SCALE), background)
    drawing = ImageDraw.Draw(image)
    _draw_lines(drawing, rng, size * _SCALE)
    drawing.polygon(_place(SHAPES[class_name], rng, size * _SCALE), fill=fill)
    return _encode_jpeg(_add_noise(image.resize((size, size), Image.Resampling.BOX), rng))


def _contrasting_colours(rng: random.Random) -> tuple[Colour, Colour]:
    while True:
        first, second = _colour(rng), _colour(rng)
        if max(abs(a - b) for a, b in zip(first, second, strict=True)) >= _CONTRAST:
            return first, second


def _colour(rng: random.Random) -> Colour:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _draw_lines(drawing: ImageDraw.ImageDraw, rng: random.Random, size: int) -> None:
    """Draw up to three lines behind the shape, so that no single pixel or edge gives the class."""
    for _ in range(rng.randrange(4)):
        ends = [(rng.uniform(0, size), rng.uniform(0, size)) for _ in range(2)]
        drawing.line(ends, fill=_colour(rng), width=max(1, size // 60))


def _place(outline: Sequence[Point], rng: random.Random, size: int) -> list[Point]:
    """Return an outline with a random radius, position and rotation."""
    radius = rng.uniform(0.22, 0.4) * size
    x, y = (rng.uniform(radius, size - radius) for _ in range(2))
    angle = rng.uniform(0, math.tau)
    cosine, sine = math.cos(angle) * radius, math.sin(angle) * radius
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in outline]


def _add_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    generator = np.random.default_rng(rng.getrandbits(64))
    noise = generator.normal(0, _NOISE, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _encode_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
