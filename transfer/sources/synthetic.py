"""Synthetic pictures in place of photographs: faces of animals. The class gives the shape, and chance all the rest."""

import io
import random
from typing import NamedTuple

import numpy as np
from PIL import Image

from transfer.sources import animals, textures
from transfer.sources.animals import ANIMALS, Animal
from transfer.sources.painter import Colour, Painter, Pose
from transfer.sources.textures import mixed, varied

CLASSES = tuple(ANIMALS)

_SCALE = 2  # the picture is drawn larger and reduced, for smooth edges
_QUALITY = 90  # of JPEG
_EAR_ROOT = (-0.55, -0.8)  # where the left ear turns
_BLACK, _WHITE, _PINK = (18, 14, 16), (250, 248, 246), (222, 140, 135)
_IRISES = ((120, 160, 70), (200, 170, 50), (90, 150, 190), (190, 120, 40), (110, 70, 40))
_NOSES = ((30, 24, 26), (50, 36, 34), (200, 125, 122), (120, 72, 66))
_COLLARS = ((190, 50, 50), (50, 90, 170), (60, 140, 90), (220, 170, 50), (130, 70, 150))


class _Coat(NamedTuple):
    """An animal's fur: its main colour, the textures of the head and of the parts in its shade."""

    colour: Colour
    lit: Image.Image
    shaded: Image.Image


def draw(class_name: str, index: int, *, size: int, seed: int) -> bytes:
    """Draw a picture of one animal with random fur, proportions, pose, background and light.

    Args:
        class_name: one of `CLASSES`.
        index: the number of the picture within its class.
        size: width and height in pixels.
        seed: the picture depends on (seed, class_name, index, size) only.

    Returns:
        The bytes of a JPEG file.
    """
    rng = random.Random(f"{seed}/{class_name}/{index}")  # noqa: S311 - for pictures, not for secrets
    generator = np.random.default_rng(rng.getrandbits(64))
    pose = _pose(rng)
    image = _enlarged(textures.background(rng, generator, size))
    coat = _coat(rng, generator, pose, size)
    painter = Painter(image, pose, line=mixed(coat.colour, _BLACK, 0.65))
    _draw_animal(painter, _individual(rng, ANIMALS[class_name]), coat, rng)
    return _encode_jpeg(_lit(image.reduce(_SCALE), rng, generator))


def _pose(rng: random.Random) -> Pose:
    radius = rng.uniform(0.21, 0.31)
    return Pose(
        x=rng.uniform(0.38, 0.62),
        y=rng.uniform(0.44, 0.56),
        radius=radius,
        angle=rng.gauss(0, 0.2),
        turn=rng.uniform(-0.3, 0.3),
        nod=rng.uniform(-0.15, 0.15),
    )


def _enlarged(pixels: textures.Pixels) -> Image.Image:
    edge = len(pixels) * _SCALE
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.resize((edge, edge), Image.Resampling.BILINEAR)


def _coat(rng: random.Random, generator: np.random.Generator, pose: Pose, size: int) -> _Coat:
    first, second = (varied(rng, colour, by=14) for colour in rng.sample(textures.FUR, 2))
    x, y = pose.coordinates(size)
    fur = textures.fur(generator, (first, second), textures.markings(rng, generator, x, y))
    from_left, from_top = rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.05)
    round_shade = np.clip(1.1 - 0.16 * (x * x + y * y) + from_left * x + from_top * y, 0.4, 1.3)[..., None]
    lit = _enlarged(fur * round_shade)
    return _Coat(first, lit, lit.point([round(0.78 * value) for value in range(256)] * 3))


def _individual(rng: random.Random, animal: Animal) -> Animal:
    """Return an animal with proportions of its own."""
    wide, high, length, size = (rng.uniform(0.9, 1.1) for _ in range(4))
    ear = animals.rotated(animal.ear, rng.gauss(0, 0.09), around=_EAR_ROOT)
    ear = animals.scaled(ear, wide=1.0, high=length, around=_EAR_ROOT)
    return animal._replace(
        head=animals.scaled(animal.head, wide=wide, high=high),
        ear=animals.scaled(ear, wide=wide, high=high),
        muzzle=[animals.scaled(part, wide=wide, high=high) for part in animal.muzzle],
        eye=animal.eye._replace(width=animal.eye.width * size, height=animal.eye.height * size),
    )


def _draw_animal(painter: Painter, animal: Animal, coat: _Coat, rng: random.Random) -> None:
    _draw_body(painter, animal, coat, rng)
    if animal.hanging:
        painter.fill(animal.head, coat.lit, edged=True)
        _draw_ears(painter, animal, coat, rng)
    else:
        _draw_ears(painter, animal, coat, rng)
        painter.fill(animal.head, coat.lit, edged=True)
    _draw_eyes(painter, animal, rng)
    _draw_muzzle(painter, animal, coat, rng)
    _draw_whiskers(painter, animal, rng)


def _draw_body(painter: Painter, animal: Animal, coat: _Coat, rng: random.Random) -> None:
    body = animals.ellipse(rng.uniform(-0.3, 0.3), 2.35, rng.uniform(1.0, 1.4), rng.uniform(1.5, 1.8))
    painter.fill(body, coat.shaded, depth=-0.3, edged=True)
    if rng.random() < 0.4:
        chin = max(y for _, y in animal.head)
        painter.fill(animals.ellipse(0, chin - 0.1, 0.62, 0.3), rng.choice(_COLLARS), depth=-0.1, edged=True)


def _draw_ears(painter: Painter, animal: Animal, coat: _Coat, rng: random.Random) -> None:
    x, y = (sum(axis) / len(axis) for axis in zip(*animal.ear, strict=True))
    inner = animals.scaled(animal.ear, wide=0.6, high=0.6, around=(x, y + 0.1))
    for is_left in (True, False):
        tilt = rng.gauss(0, 0.06)
        tilted = [animals.rotated(part, tilt, around=_EAR_ROOT) for part in (animal.ear, inner)]
        outer_side, inner_side = tilted if is_left else map(animals.mirrored, tilted)
        painter.fill(outer_side, coat.shaded, depth=-0.12, edged=True)
        if not animal.hanging:
            painter.fill(inner_side, mixed(coat.colour, _PINK, 0.6), depth=-0.12)


def _draw_eyes(painter: Painter, animal: Animal, rng: random.Random) -> None:
    eye = animal.eye
    iris = varied(rng, rng.choice(_IRISES), by=14)
    colour, pupil = (iris, 0.33 * eye.width) if eye.slanted else (mixed(iris, _BLACK, 0.4), 0.65 * eye.width)
    tilt = 0.25 if eye.slanted else 0.0
    for x, angle in ((eye.x, tilt), (-eye.x, -tilt)):
        painter.fill(animals.ellipse(x, eye.y, eye.width, eye.height, angle=angle), colour, depth=0.12, edged=True)
        painter.fill(animals.ellipse(x, eye.y, pupil, 0.85 * eye.height), _BLACK, depth=0.13)
        painter.fill(animals.ellipse(x + 0.05, eye.y - 0.06, 0.045, 0.045), _WHITE, depth=0.13)


def _draw_muzzle(painter: Painter, animal: Animal, coat: _Coat, rng: random.Random) -> None:
    mouth = animal.mouth
    if animal.tongue and rng.random() < 0.5:
        tongue = [(-0.16, mouth), (0.16, mouth), (0.2, mouth + 0.4), (0.0, mouth + 0.6), (-0.2, mouth + 0.4)]
        painter.fill(animals.rounded(tongue), _PINK, depth=0.25, edged=True)
    pale = mixed(coat.colour, _WHITE, rng.uniform(0.2, 0.6))
    for part in animal.muzzle:
        painter.fill(part, pale, depth=0.25)
    corner = 0.45 * mouth
    right_lip = [(0.0, mouth), (corner / 2, mouth + 0.11), (corner, mouth + 0.03)]
    painter.stroke([(0.0, 0.35), (0.0, mouth)], painter.line, depth=0.3)
    painter.stroke([*reversed(animals.mirrored(right_lip)), *right_lip[1:]], painter.line, depth=0.28)
    _draw_nose(painter, animal, rng)


def _draw_nose(painter: Painter, animal: Animal, rng: random.Random) -> None:
    colour = rng.choice(_NOSES)
    top = min(y for _, y in animal.nose)
    painter.fill(animal.nose, colour, depth=0.33)
    painter.fill(animals.ellipse(-0.05, top + 0.07, 0.05, 0.025), mixed(colour, _WHITE, 0.5), depth=0.33)


def _draw_whiskers(painter: Painter, animal: Animal, rng: random.Random) -> None:
    colour = rng.choice((_WHITE, _BLACK))
    for side in (-1, 1):
        for number in range(animal.whiskers):
            rise = 0.25 * (number - (animal.whiskers - 1) / 2) + rng.gauss(0, 0.04)
            length = rng.uniform(0.9, 1.2)
            y = animal.mouth - 0.14
            line = [(0.3, y + 0.2 * rise), (0.3 + 0.5 * length, y + 0.7 * rise), (0.3 + length, y + rise + 0.06)]
            painter.stroke([(side * a, b) for a, b in line], colour, depth=0.28, thickness=0.7)


def _lit(image: Image.Image, rng: random.Random, generator: np.random.Generator) -> Image.Image:
    """Return a picture in brighter or darker, warmer or colder light from one side, with a camera's noise."""
    tint = np.array([rng.uniform(0.93, 1.07) for _ in range(3)], np.float32) * rng.uniform(0.75, 1.12)
    position = np.linspace(-0.2, 0.2, image.width, dtype=np.float32)
    slope = 1 + np.add.outer(rng.uniform(-1, 1) * position, rng.uniform(-1, 1) * position)[..., None]
    grain = rng.uniform(2, 7) * generator.standard_normal(slope.shape, np.float32)
    pixels = np.asarray(image) * (tint * slope) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _encode_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
