import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladder import pictures
from transfer.images import augmentation, decoding, manifest
from transfer.runtime.errors import DataError
from transfer.sources import synthetic

VARIED = augmentation.Params(
    horizontal_flip=True,
    vertical_flip=False,
    rotation=20.0,
    shift=0.1,
    zoom=1.2,
    shear=0.0,
    stretch=1.0,
    fill="reflect",
)


@pytest.fixture
def drawn(tmp_path: Path) -> list[manifest.Entry]:
    """Three drawings of each of two classes, in the temporary folder."""
    entries = []
    for number in range(3):
        for class_name in ("circle", "triangle"):
            data = synthetic.draw(class_name, number, size=40, seed=0)
            path = f"{class_name}.{number}.jpg"
            (tmp_path / path).write_bytes(data)
            entries.append(manifest.Entry(path, class_name, hashlib.sha256(data).hexdigest(), 40, 40, "train"))
    return entries


def shown(folder: Path, entries: list[manifest.Entry], *, size: int = 16, **arguments: Any) -> pictures.Pictures:
    """The drawings in batches of four."""
    pixels = pictures.read(folder, entries, size=size, resizing="crop", name="test")
    return pictures.Pictures(pixels, entries, classes=["circle", "triangle"], batch_size=4, **arguments)


def epoch(shown: pictures.Pictures, number: int) -> tuple[Any, list[float]]:
    """All pictures and labels of an epoch, in its order."""
    shown.epoch = number
    batches = [shown[index] for index in range(len(shown))]
    return np.concatenate([batch[0] for batch in batches]), [
        float(label) for _, labels in batches for [label] in labels
    ]


def test_without_a_seed_photographs_are_shown_as_they_are(tmp_path: Path, drawn: list[manifest.Entry]) -> None:
    """Order, labels and pixels are the photographs' own; the last batch is what is left."""
    given = shown(tmp_path, drawn)
    pixels, labels = epoch(given, 3)
    assert [len(given[index][0]) for index in range(len(given))] == [4, 2]
    assert labels == [0, 1] * 3
    for entry, picture in zip(drawn, pixels, strict=True):
        image = decoding.decode((tmp_path / entry.path).read_bytes())
        np.testing.assert_array_equal(picture, decoding.resize(image, size=16, resizing="crop"))


def test_each_epoch_has_an_order_of_its_own(tmp_path: Path, drawn: list[manifest.Entry]) -> None:
    """The order follows from the seed and the epoch's number, and each label stays with its picture."""
    given, pixels = shown(tmp_path, drawn, seed=1), {}
    for number in (0, 1, 0):
        found, labels = epoch(given, number)
        pixels.setdefault(number, found)
        np.testing.assert_array_equal(pixels[number], found)
        assert {(picture.tobytes(), label) for picture, label in zip(found, labels, strict=True)} == {
            (picture.tobytes(), label) for picture, label in zip(*epoch(shown(tmp_path, drawn), 0), strict=True)
        }
    assert not np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(epoch(shown(tmp_path, drawn, seed=2), 0)[0], pixels[0])


def test_each_epoch_varies_a_photograph_anew(tmp_path: Path, drawn: list[manifest.Entry]) -> None:
    """A view has the size of the other pictures, is another in each epoch, and the same when an epoch is repeated."""
    given = shown(tmp_path, drawn[:1], size=16 * pictures.FINER, seed=1, augmented=VARIED)
    views = [epoch(given, number)[0] for number in (0, 1, 0)]
    assert views[0].shape == (1, 16, 16, 3)
    assert not np.array_equal(views[0], views[1])
    np.testing.assert_array_equal(views[0], views[2])


def test_a_photograph_that_is_not_the_manifest_s_is_named(tmp_path: Path, drawn: list[manifest.Entry]) -> None:
    """A photograph whose bytes have changed since ends the reading with its name."""
    (tmp_path / drawn[2].path).write_bytes((tmp_path / drawn[3].path).read_bytes())
    with pytest.raises(DataError, match=drawn[2].path):
        shown(tmp_path, drawn)
