import math

import numpy as np
import pytest

from transfer.sources import animals
from transfer.sources.animals import ANIMALS, Animal, Outline

SQUARE = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]


def bounds(outline: Outline) -> tuple[float, float, float, float]:
    """Return the least and the largest x, and the least and the largest y."""
    x, y = zip(*outline, strict=True)
    return min(x), max(x), min(y), max(y)


@pytest.mark.parametrize("animal", ANIMALS.values(), ids=ANIMALS)
def test_parts_are_in_the_head(animal: Animal) -> None:
    """Eyes, nose and mouth are in the head, the ear reaches beyond it on the left, and no part is far away."""
    left, right, top, bottom = bounds(animal.head)
    assert left == pytest.approx(-right)
    for part in ([(animal.eye.x, animal.eye.y)], animal.nose, [(0.0, animal.mouth)]):
        least_x, most_x, least_y, most_y = bounds(part)
        assert left < least_x <= most_x < right
        assert top < least_y <= most_y < bottom
    ear = bounds(animal.ear)
    assert ear[0] < left or ear[2] < top
    assert ear[1] < 0
    assert max(map(abs, (*bounds(animal.head), *ear))) < 2.2


def test_outlines_are_moved_as_named() -> None:
    """Outlines are mirrored, scaled and rotated about the given point."""
    assert bounds(animals.mirrored([(1.0, 2.0)])) == (-1, -1, 2, 2)
    assert bounds(animals.scaled(SQUARE, wide=2, high=3, around=(1, 1))) == (-3, 1, -5, 1)
    np.testing.assert_allclose(animals.rotated([(2.0, 1.0)], math.pi / 2, around=(1, 1)), [(1, 2)], atol=1e-12)


def test_ellipses_and_rounded_corners() -> None:
    """An ellipse has the given half axes; a rounded polygon lies within the polygon, without its corners."""
    np.testing.assert_allclose(bounds(animals.ellipse(1, 2, 3, 4)), (-2, 4, -2, 6), atol=1e-12)
    np.testing.assert_allclose(bounds(animals.ellipse(0, 0, 3, 4, angle=math.pi / 2)), (-4, 4, -3, 3), atol=1e-12)
    corners = animals.rounded(SQUARE)
    assert bounds(corners) == bounds(SQUARE)
    assert max(math.hypot(*corner) for corner in corners) < 1.3
