import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from transfer.images import augmentation, decoding

OFF = {
    "horizontal_flip": False,
    "vertical_flip": False,
    "rotation": 0.0,
    "shift": 0.0,
    "zoom": 1.0,
    "shear": 0.0,
    "stretch": 1.0,
    "fill": "reflect",
}


def params(**changes: object) -> augmentation.Params:
    """Return parameters with every transformation off, except for the changes."""
    return augmentation.Params.model_validate(OFF | changes)


def draw(seed: int = 0, **changes: object) -> augmentation.Matrix:
    """Draw the affine map of a view, with every transformation off, except for the changes."""
    return augmentation.matrix(params(**changes), np.random.default_rng(seed))


def photograph(width: int = 90, height: int = 60) -> Image.Image:
    """Return a smooth picture without symmetry: red increases to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across / 2 - down / 2], axis=-1).astype(np.uint8))


def render(image: Image.Image, mapping: augmentation.Matrix, **changes: object) -> np.ndarray:
    """Return the pixels of a view as integers, so that they can be subtracted."""
    return augmentation.view(
        image, mapping, **({"size": 48, "resizing": "squash", "fill": "reflect"} | changes)
    ).astype(int)


@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
def test_a_view_without_augmentation_is_the_resized_photograph(resizing: decoding.Resizing) -> None:
    """With every transformation off a view is, but for the interpolation, what `decoding.resize` returns."""
    for size in ((90, 60), (720, 360), (60, 120)):
        expected = decoding.resize(photograph(*size), size=48, resizing=resizing).astype(int)
        difference = np.abs(render(photograph(*size), draw(), resizing=resizing) - expected)
        assert difference[18:30, 18:30].max() <= 4
        assert difference.mean() < 3


def test_horizontal_flip_mirrors_about_half_of_the_views() -> None:
    """A view is either the photograph or its mirror image, each in about half of the draws."""
    views = [render(photograph(), draw(seed, horizontal_flip=True)) for seed in range(40)]
    mirrored = [np.abs(view[:, ::-1] - views[0]).max() > np.abs(view - views[0]).max() for view in views]
    assert 8 < sum(mirrored) < 32
    plain = render(photograph(), draw())
    assert all(min(np.abs(view - plain).max(), np.abs(view[:, ::-1] - plain).max()) <= 4 for view in views)


def test_rotation_is_about_the_middle() -> None:
    """Rotating a square photograph by 90 degrees gives the same as Pillow's transposition."""
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    turned = render(photograph(60, 60), quarter)
    expected = render(photograph(60, 60).transpose(Image.Transpose.ROTATE_90), draw())
    other = render(photograph(60, 60).transpose(Image.Transpose.ROTATE_270), draw())
    assert min(np.abs(turned - expected).max(), np.abs(turned - other).max()) <= 4


@pytest.mark.parametrize(
    ("name", "limit", "measure"),
    [
        ("rotation", 40.0, lambda m: abs(np.degrees(np.arctan2(m[1, 0], m[0, 0])))),
        ("zoom", 1.5, lambda m: max(m[0, 0], 1 / m[0, 0])),
        ("shear", 15.0, lambda m: abs(np.degrees(np.arctan(m[0, 1])))),
        ("stretch", 1.3, lambda m: max(m[0, 0] / m[1, 1], m[1, 1] / m[0, 0])),
        ("shift", 0.2, lambda m: np.abs(m[:, 2]).max()),
    ],
)
def test_each_transformation_stays_in_its_range_and_uses_all_of_it(name: str, limit: float, measure: object) -> None:
    """Draws come near the limit that the parameters set, and never exceed it."""
    values = [measure(draw(seed, **{name: limit})) for seed in range(300)]  # type: ignore[operator]
    neutral = measure(draw())  # type: ignore[operator]
    assert max(values) <= limit + 1e-9
    assert max(values) > neutral + 0.9 * (limit - neutral)


def test_switching_on_a_transformation_does_not_change_the_draws_of_others() -> None:
    """A view has the same rotation with and without zoom."""
    angles = [np.arctan2(m[1, 0], m[0, 0]) for m in (draw(7, rotation=30.0), draw(7, rotation=30.0, zoom=1.4))]
    assert angles[0] == pytest.approx(angles[1])


def test_fill_decides_how_the_area_beyond_the_edges_is_filled() -> None:
    """Around a photograph zoomed out there is its reflection, its edge, its repetition, or the background colour."""
    zoomed_out = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    near_left_edge = {
        fill: render(photograph(), zoomed_out, fill=fill)[24, 2] for fill in ("reflect", "nearest", "wrap", "constant")
    }
    assert np.abs(near_left_edge["constant"] - decoding.BACKGROUND).max() <= 1
    assert near_left_edge["nearest"][0] <= 5
    assert 90 < near_left_edge["reflect"][0] < 150
    assert 110 < near_left_edge["wrap"][0] < 180
    assert (
        np.abs(render(photograph(), zoomed_out, fill="reflect", resizing="fit")[2, 2] - decoding.BACKGROUND).max() <= 1
    )


def test_a_large_photograph_is_averaged() -> None:
    """Fine noise in a large photograph becomes its mean, as without augmentation; sampling would keep it."""
    noise = np.random.default_rng(0).choice([0, 255], (1200, 1200, 1)).astype(np.uint8).repeat(3, axis=2)
    assert render(Image.fromarray(noise), draw()).std() < 30


@pytest.mark.parametrize(("name", "value"), [("rotation", 361.0), ("zoom", 0.9), ("shear", 21.0), ("fill", "mirror")])
def test_a_value_out_of_range_is_rejected(name: str, value: object) -> None:
    """A value beyond its limits fails the validation."""
    with pytest.raises(ValidationError):
        params(**{name: value})
