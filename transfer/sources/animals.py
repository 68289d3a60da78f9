"""Outlines of animals' faces, from which synthetic pictures are drawn.

Coordinates have their origin between the eyes and the nose; x grows to the right, y grows downwards, and a head's
radius is about 1. Outlines of paired parts are those on the left of the picture.
"""

import math
from typing import NamedTuple

Point = tuple[float, float]
Outline = list[Point]  # a closed polygon


class Eye(NamedTuple):
    """The left eye: its centre, half its width and height, and whether it is slanted, with a narrow pupil."""

    x: float
    y: float
    width: float
    height: float
    slanted: bool = False


class Animal(NamedTuple):
    """The parts of a face. Hanging ears lie over the head; others are behind it and show their inner side."""

    head: Outline
    ear: Outline
    hanging: bool
    eye: Eye
    muzzle: list[Outline]
    nose: Outline
    mouth: float  # y of its middle
    whiskers: int = 0  # on each side
    tongue: bool = False  # whether it may be shown


def ellipse(x: float, y: float, width: float, height: float, *, angle: float = 0.0) -> Outline:
    """Return an ellipse around (x, y), with half its width and height, and its angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turns = (math.tau * corner / 36 for corner in range(36))
    flat = [(width * math.cos(turn), height * math.sin(turn)) for turn in turns]
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in flat]


def rounded(corners: Outline, *, rounds: int = 3) -> Outline:
    """Cut the corners of a polygon `rounds` times (Chaikin, 1974)."""
    for _ in range(rounds):
        sides = zip(corners, [*corners[1:], corners[0]], strict=True)
        corners = [(a + t * (c - a), b + t * (d - b)) for (a, b), (c, d) in sides for t in (0.25, 0.75)]
    return corners


def mirrored(outline: Outline) -> Outline:
    """Return an outline with left and right exchanged."""
    return [(-x, y) for x, y in outline]


def scaled(outline: Outline, *, wide: float, high: float, around: Point = (0.0, 0.0)) -> Outline:
    """Return an outline with its distances from a point multiplied."""
    return [(around[0] + wide * (x - around[0]), around[1] + high * (y - around[1])) for x, y in outline]


def rotated(outline: Outline, angle: float, *, around: Point) -> Outline:
    """Return an outline rotated about a point by an angle in radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    moved = [(x - around[0], y - around[1]) for x, y in outline]
    return [(around[0] + x * cosine - y * sine, around[1] + x * sine + y * cosine) for x, y in moved]


def _symmetric(right: Outline) -> Outline:
    """Return the outline whose right half is given from top to bottom."""
    return rounded([*right, *reversed(mirrored(right))])


def _cheeks(y: float, width: float) -> list[Outline]:
    left = ellipse(-0.7 * width, y, width, 0.75 * width)
    return [left, mirrored(left)]


ANIMALS = {
    "bear": Animal(
        head=_symmetric([(0.5, -0.95), (0.95, -0.55), (1.1, 0.1), (0.85, 0.75), (0.3, 1.0)]),
        ear=ellipse(-0.78, -0.78, 0.36, 0.36),
        hanging=False,
        eye=Eye(-0.36, -0.12, 0.11, 0.12),
        muzzle=[ellipse(0.0, 0.48, 0.46, 0.38)],
        nose=ellipse(0.0, 0.3, 0.2, 0.13),
        mouth=0.6,
    ),
    "cat": Animal(
        head=_symmetric([(0.55, -0.8), (1.0, -0.25), (1.08, 0.3), (0.6, 0.78), (0.2, 0.88)]),
        ear=[(-0.98, -0.1), (-1.06, -0.8), (-1.0, -1.45), (-0.55, -1.12), (-0.15, -0.68)],
        hanging=False,
        eye=Eye(-0.44, -0.08, 0.23, 0.19, slanted=True),
        muzzle=_cheeks(0.46, 0.27),
        nose=rounded([(-0.16, 0.21), (0.16, 0.21), (0.0, 0.43)], rounds=2),
        mouth=0.6,
        whiskers=3,
    ),
    "dog": Animal(
        head=_symmetric([(0.5, -0.95), (0.85, -0.4), (0.75, 0.25), (0.62, 0.8), (0.3, 1.15)]),
        ear=rounded(
            [(-0.4, -0.98), (-0.85, -0.85), (-1.25, -0.3), (-1.32, 0.4), (-1.1, 0.75), (-0.85, 0.55), (-0.72, 0.0)]
        ),
        hanging=True,
        eye=Eye(-0.36, -0.22, 0.15, 0.16),
        muzzle=[ellipse(0.0, 0.55, 0.48, 0.52)],
        nose=rounded([(-0.28, 0.16), (0.28, 0.16), (0.22, 0.42), (0.0, 0.52), (-0.22, 0.42)], rounds=2),
        mouth=0.76,
        tongue=True,
    ),
    "mouse": Animal(
        head=_symmetric([(0.45, -0.75), (0.85, -0.3), (0.7, 0.3), (0.35, 0.85), (0.15, 1.0)]),
        ear=ellipse(-0.95, -0.85, 0.58, 0.58),
        hanging=False,
        eye=Eye(-0.36, -0.05, 0.11, 0.13),
        muzzle=[ellipse(0.0, 0.66, 0.26, 0.24)],
        nose=ellipse(0.0, 0.6, 0.12, 0.09),
        mouth=0.76,
        whiskers=3,
    ),
    "rabbit": Animal(
        head=_symmetric([(0.45, -0.85), (0.8, -0.4), (0.9, 0.25), (0.6, 0.8), (0.25, 0.95)]),
        ear=ellipse(-0.42, -1.4, 0.24, 0.72, angle=-0.12),
        hanging=False,
        eye=Eye(-0.45, -0.15, 0.14, 0.18),
        muzzle=_cheeks(0.48, 0.24),
        nose=rounded([(-0.13, 0.25), (0.13, 0.25), (0.0, 0.4)], rounds=2),
        mouth=0.58,
        whiskers=2,
    ),
}
