"""Painter: outlines of a posed animal, drawn on a picture with plain colours or textures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from transfer.sources.animals import Outline

Colour = tuple[int, int, int]
Grid = NDArray[np.float32]  # a number for each pixel, of shape (size, size)


class Pose(NamedTuple):
    """Where a face is, in fractions of the picture's edge, and where it looks.

    A part at a depth in front of the face, in radii of the head, moves by `turn` and `nod` times its depth.
    """

    x: float
    y: float
    radius: float  # of the head
    angle: float  # radians
    turn: float
    nod: float

    def place(self, outline: Outline, *, edge: int, depth: float) -> Outline:
        """Return an outline in pixels of a picture of that edge."""
        cosine, sine = math.cos(self.angle) * self.radius, math.sin(self.angle) * self.radius
        moved = [(x + self.turn * depth, y + self.nod * depth) for x, y in outline]
        return [((self.x + x * cosine - y * sine) * edge, (self.y + x * sine + y * cosine) * edge) for x, y in moved]

    def coordinates(self, edge: int) -> tuple[Grid, Grid]:
        """Return the animal's x and y at each pixel of a picture of that edge."""
        rows, columns = np.mgrid[0:edge, 0:edge].astype(np.float32) / np.float32(edge)
        x, y = (columns - self.x) / self.radius, (rows - self.y) / self.radius
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return x * cosine + y * sine, y * cosine - x * sine


@dataclass(frozen=True)
class Painter:
    """Draws on a square picture, which it changes."""

    image: Image.Image
    pose: Pose
    line: Colour

    @property
    def _width(self) -> int:
        return max(1, round(0.04 * self.pose.radius * self.image.width))

    def fill(self, outline: Outline, paint: Colour | Image.Image, *, depth: float = 0.0, edged: bool = False) -> None:
        """Fill an outline with a colour or with the same region of a picture; draw a line along it if `edged`."""
        points = self.pose.place(outline, edge=self.image.width, depth=depth)
        drawing = ImageDraw.Draw(self.image)
        if isinstance(paint, Image.Image):
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(points, fill=255)
            self.image.paste(paint, mask=mask)
        else:
            drawing.polygon(points, fill=paint)
        if edged:
            drawing.line([*points, *points[:2]], fill=self.line, width=self._width, joint="curve")

    def stroke(self, points: Outline, colour: Colour, *, depth: float, thickness: float = 1.0) -> None:
        """Draw an open line, with a thickness in times that of the edges."""
        placed = self.pose.place(points, edge=self.image.width, depth=depth)
        width = max(1, round(thickness * self._width))
        ImageDraw.Draw(self.image).line(placed, fill=colour, width=width, joint="curve")
