import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.prediction import least_certain
from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.model import Prediction
from transfer.runtime.errors import DataError


def prediction(dog: float) -> Prediction:
    """Return a prediction with a probability of `dog`."""
    class_name = "dog" if dog > 0.5 else "cat"
    return Prediction(class_name, max(dog, 1 - dog), {"cat": 1 - dog, "dog": dog}, class_name)


def near(direction: int, *, seed: int) -> np.ndarray:
    """Return features near one of 16 directions."""
    return (np.eye(16)[direction] + np.random.default_rng(seed).normal(0, 0.01, 16)).astype(np.float32)


def test_near_copies_of_one_uncertain_photograph_are_not_all_chosen() -> None:
    """Five copies are the least certain: one of them is chosen, then other uncertain photographs, then certain ones."""
    uncertain = [0.5, 0.501, 0.499, 0.502, 0.498]
    predictions = [prediction(dog) for dog in (0.99, *uncertain, 0.7, 0.3, 0.98)]
    directions = [1, 0, 0, 0, 0, 0, 2, 3, 4]
    features = np.stack([near(direction, seed=number) for number, direction in enumerate(directions)])
    first, *others = least_certain.rank(predictions, features, number=3)
    assert (first, {*others}) == (1, {6, 7})
    assert {*least_certain.rank(predictions, features, number=5)} == {1, 6, 7, 8, 0}


def test_all_photographs_are_ranked_if_more_are_asked_for() -> None:
    """Each is chosen once, equal ones by uncertainty; photographs without any activation are ranked, too."""
    predictions = [prediction(dog) for dog in (0.9, 0.6, 0.8)]
    assert least_certain.rank(predictions, np.zeros((3, 4), np.float32), number=9) == [1, 2, 0]
    assert least_certain.rank(predictions, np.ones((3, 4), np.float32), number=9) == [1, 2, 0]


@pytest.mark.parametrize(
    ("probabilities", "uncertainty"),
    [((0.5, 0.5), 1.0), ((1.0, 0.0), 0.0), ((0.4, 0.4, 0.2), 1.0), ((0.7, 0.2, 0.1), 0.5)],
)
def test_uncertainty_is_small_for_a_large_margin(probabilities: tuple[float, ...], uncertainty: float) -> None:
    """It counts the two most probable classes alone."""
    named = dict(zip("abc", probabilities, strict=False))
    assert least_certain.uncertainty(Prediction("a", probabilities[0], named, "a")) == pytest.approx(uncertainty)


def test_the_sheet_shows_the_photographs_in_order(tmp_path: Path) -> None:
    """A photograph that has vanished is grey; names that would control a terminal are escaped."""
    file = io.BytesIO()
    Image.new("RGB", (400, 300), (200, 30, 30)).save(file, "PNG")

    def vanished() -> bytes:
        raise DataError("gone")

    photographs = [InputPhotograph("a\x1b.png", file.getvalue), InputPhotograph("b.png", vanished)]
    least_certain.write_sheet(tmp_path / "sheet.jpg", photographs, [prediction(0.5), prediction(0.6)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg")).astype(int)
    left, right = sheet[100, sheet.shape[1] // 4], sheet[100, 3 * sheet.shape[1] // 4]
    np.testing.assert_allclose(left, (200, 30, 30), atol=6)
    np.testing.assert_allclose(right, (128, 128, 128), atol=6)


@pytest.mark.parametrize("argument", ["0", "-1", "x", "1.5", "", "²"])
def test_the_number_must_be_positive(argument: str) -> None:
    """Anything else is refused with what was received."""
    with pytest.raises(argparse.ArgumentTypeError, match="a number from 1 on"):
        least_certain.count(argument)


def test_the_sheet_must_be_a_jpeg_in_a_folder_that_exists(tmp_path: Path) -> None:
    """A mistake in its name is found before anything is predicted."""
    assert least_certain.sheet_file(str(tmp_path / "next.JPG")) == tmp_path / "next.JPG"
    for wrong in (tmp_path, tmp_path / "next.png", tmp_path / "no/next.jpg"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"a \.jpg in a folder that exists"):
            least_certain.sheet_file(str(wrong))
