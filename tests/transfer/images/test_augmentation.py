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
    """Params with all off but what is given."""
    return augmentation.Params.model_validate(OFF | changes)


def drawn(seed: int = 0, **changes: object) -> augmentation.Matrix:
    """A view's map with all off but what is given."""
    return augmentation.matrix(params(**changes), np.random.default_rng(seed))


def photograph(width: int = 90, height: int = 60) -> Image.Image:
    """A smooth picture without symmetry, red to the right and green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across / 2 - down / 2], axis=-1).astype(np.uint8))


def shown(image: Image.Image, mapping: augmentation.Matrix, **changes: object) -> np.ndarray:
    """A view's pixels, as integers."""
    return augmentation.view(
        image, mapping, **({"size": 48, "resizing": "squash", "fill": "reflect"} | changes)
    ).astype(int)


@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
def test_a_view_with_all_off_is_the_photograph(resizing: decoding.Resizing) -> None:
    """Without augmentation a view shows what resizing shows."""
    for size in ((90, 60), (720, 360), (60, 120)):
        expected = decoding.resize(photograph(*size), size=48, resizing=resizing).astype(int)
        difference = np.abs(shown(photograph(*size), drawn(), resizing=resizing) - expected)
        assert difference[18:30, 18:30].max() <= 4
        assert difference.mean() < 3


def test_horizontal_flip_mirrors() -> None:
    """About half of the views are mirrored and the others are not."""
    views = [shown(photograph(), drawn(seed, horizontal_flip=True)) for seed in range(40)]
    mirrored = [np.abs(view[:, ::-1] - views[0]).max() > np.abs(view - views[0]).max() for view in views]
    assert 8 < sum(mirrored) < 32
    plain = shown(photograph(), drawn())
    assert all(min(np.abs(view - plain).max(), np.abs(view[:, ::-1] - plain).max()) <= 4 for view in views)


def test_rotation_turns_about_the_middle() -> None:
    """A quarter turn of a square photograph is Pillow's quarter turn."""
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    turned = shown(photograph(60, 60), quarter)
    expected = shown(photograph(60, 60).transpose(Image.Transpose.ROTATE_90), drawn())
    other = shown(photograph(60, 60).transpose(Image.Transpose.ROTATE_270), drawn())
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
def test_each_value_stays_in_its_range_and_uses_it(name: str, limit: float, measure: object) -> None:
    """What params allow is reached and never exceeded, on its own and without a change of anything else."""
    values = [measure(drawn(seed, **{name: limit})) for seed in range(300)]  # type: ignore[operator]
    neutral = measure(drawn())  # type: ignore[operator]
    assert max(values) <= limit + 1e-9
    assert max(values) > neutral + 0.9 * (limit - neutral)


def test_switching_one_on_leaves_the_others_draw() -> None:
    """A view keeps its rotation when zoom is switched on."""
    angle = [np.arctan2(m[1, 0], m[0, 0]) for m in (drawn(7, rotation=30.0), drawn(7, rotation=30.0, zoom=1.4))]
    assert angle[0] == pytest.approx(angle[1])


def test_fill_decides_what_lies_beyond_the_edge() -> None:
    """A photograph zoomed out is continued by reflection, by its edge, by itself, or by the background."""
    away = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    left = {fill: shown(photograph(), away, fill=fill)[24, 2] for fill in ("reflect", "nearest", "wrap", "constant")}
    assert np.abs(left["constant"] - decoding.BACKGROUND).max() <= 1
    assert left["nearest"][0] <= 5
    assert 90 < left["reflect"][0] < 150
    assert 110 < left["wrap"][0] < 180
    assert np.abs(shown(photograph(), away, fill="reflect", resizing="fit")[2, 2] - decoding.BACKGROUND).max() <= 1


def test_a_large_photograph_is_averaged_not_sampled() -> None:
    """Fine noise in a large photograph comes out as its mean, as it does without augmentation."""
    noise = np.random.default_rng(0).choice([0, 255], (1200, 1200, 1)).astype(np.uint8).repeat(3, axis=2)
    assert shown(Image.fromarray(noise), drawn()).std() < 30


@pytest.mark.parametrize(("name", "value"), [("rotation", 361.0), ("zoom", 0.9), ("shear", 21.0), ("fill", "mirror")])
def test_ranges_are_checked(name: str, value: object) -> None:
    """A value that makes no sense is refused."""
    with pytest.raises(ValidationError):
        params(**{name: value})
