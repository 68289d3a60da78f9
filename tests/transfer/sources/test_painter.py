import numpy as np
from PIL import Image

from transfer.sources.painter import Painter, Pose

POSE = Pose(x=0.6, y=0.4, radius=0.2, angle=0.3, turn=0.5, nod=-0.25)
SQUARE = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def painter() -> Painter:
    """Return a painter on a white picture."""
    return Painter(Image.new("RGB", (100, 100), "white"), POSE, line=BLUE)


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    """Return the colours that a picture has."""
    return {tuple(map(int, colour)) for colour in np.asarray(image).reshape(-1, 3)}


def test_coordinates_are_the_inverse_of_placing() -> None:
    """At the pixel at which a point is placed, the animal's coordinates are those of the point."""
    x, y = POSE.coordinates(100)
    for point in [(0.0, 0.0), (1.0, -0.5)]:
        ((column, row),) = POSE.place([point], edge=100, depth=0)
        pixel = round(row), round(column)
        np.testing.assert_allclose((x[pixel], y[pixel]), point, atol=0.05)


def test_parts_in_front_of_the_face_move_when_it_turns() -> None:
    """A part at a depth moves by turn and nod times the depth, before the face is tilted."""
    assert POSE.place([(0, 0)], edge=100, depth=2) == POSE.place([(1.0, -0.5)], edge=100, depth=0)


def test_an_outline_is_filled_with_a_colour_or_a_texture() -> None:
    """Pixels within the outline get the paint, all others stay, and an edge has the colour of lines."""
    for paint in (RED, Image.new("RGB", (100, 100), RED)):
        canvas = painter()
        canvas.fill(SQUARE, paint)
        assert colours(canvas.image) == {RED, (255, 255, 255)}
        assert canvas.image.getpixel((60, 40)) == RED
        assert abs((np.asarray(canvas.image) == RED).all(2).sum() - 1600) < 120  # 40 by 40 pixels, and its edge
        canvas.fill(SQUARE, paint, edged=True)
        assert colours(canvas.image) == {RED, BLUE, (255, 255, 255)}


def test_a_stroke_is_open_and_has_its_thickness() -> None:
    """A thicker stroke has more pixels, and its ends are not joined."""
    counts = []
    for thickness in (1, 4):
        canvas = painter()
        canvas.stroke([(-1, -1), (1, -1), (1, 1)], RED, depth=0, thickness=thickness)
        assert canvas.image.getpixel((60, 40)) == (255, 255, 255)
        counts.append((np.asarray(canvas.image) == RED).all(2).sum())
    assert counts[1] > 2 * counts[0]
