import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from transfer.sources import synthetic


def _pixels(class_name: str, index: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(synthetic.draw(class_name, index, size=64, seed=0)))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (64, 64), "RGB")
    return np.asarray(picture, np.float64)


@pytest.mark.parametrize("class_name", synthetic.CLASSES)
def test_pictures_differ(class_name: str) -> None:
    """The pictures of a class are JPEG files of the given size, and differ from each other."""
    assert np.abs(_pixels(class_name, 0) - _pixels(class_name, 1)).mean() > 10


def test_picture_depends_on_seed_class_and_index() -> None:
    """The same seed, class and index give the same bytes in another process; another seed gives other bytes."""
    code = (
        "import sys; from transfer.sources import synthetic; "
        "sys.stdout.buffer.write(synthetic.draw('bear', 7, size=64, seed=3))"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert synthetic.draw("bear", 7, size=64, seed=3) == again
    assert synthetic.draw("bear", 7, size=64, seed=4) != again


def test_classes_have_the_same_colours() -> None:
    """The mean colours of two classes do not differ, so that only the shape gives the class."""
    means = {name: np.array([_pixels(name, index).mean((0, 1)) for index in range(150)]) for name in ("cat", "dog")}
    distance = np.abs(means["cat"].mean(0) - means["dog"].mean(0))
    assert (distance < 3 * np.concatenate(list(means.values())).std(0) * np.sqrt(2 / 150)).all()
