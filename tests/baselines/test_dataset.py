import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines import dataset
from transfer.images import augmentation, decoding, manifest
from transfer.runtime.errors import DataError
from transfer.sources import synthetic

AUGMENTATION = augmentation.Params(
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
def photographs(tmp_path: Path) -> list[manifest.Entry]:
    """Three photographs of each of two classes, in the temporary folder."""
    entries = []
    for number in range(3):
        for class_name in ("cat", "dog"):
            data = synthetic.draw(class_name, number, size=40, seed=0)
            path = f"{class_name}.{number}.jpg"
            (tmp_path / path).write_bytes(data)
            entries.append(manifest.Entry(path, class_name, hashlib.sha256(data).hexdigest(), 40, 40, "train"))
    return entries


def images(folder: Path, entries: list[manifest.Entry], *, size: int = 16, **arguments: Any) -> dataset.ImageDataset:
    """Return a dataset of the photographs in batches of four."""
    pixels = dataset.read_images(folder, entries, size=size, resizing="crop", name="test")
    return dataset.ImageDataset(pixels, entries, classes=["cat", "dog"], batch_size=4, **arguments)


def epoch(images: dataset.ImageDataset, number: int) -> tuple[Any, list[float]]:
    """Return all images and labels of an epoch, in its order."""
    images.epoch = number
    batches = [images[index] for index in range(len(images))]
    return np.concatenate([batch[0] for batch in batches]), [
        float(label) for _, labels in batches for [label] in labels
    ]


def test_without_a_seed_photographs_keep_order_and_pixels(tmp_path: Path, photographs: list[manifest.Entry]) -> None:
    """Order, labels and pixels are those of the photographs; the last batch may be smaller."""
    unchanged = images(tmp_path, photographs)
    pixels, labels = epoch(unchanged, 3)
    assert [len(unchanged[index][0]) for index in range(len(unchanged))] == [4, 2]
    assert labels == [0, 1] * 3
    for entry, picture in zip(photographs, pixels, strict=True):
        image = decoding.decode((tmp_path / entry.path).read_bytes())
        np.testing.assert_array_equal(picture, decoding.resize(image, size=16, resizing="crop"))


def test_each_epoch_has_a_new_order(tmp_path: Path, photographs: list[manifest.Entry]) -> None:
    """The order depends on the seed and the number of the epoch, and each label stays with its image."""
    shuffled, pixels = images(tmp_path, photographs, seed=1), {}
    for number in (0, 1, 0):
        batch, labels = epoch(shuffled, number)
        pixels.setdefault(number, batch)
        np.testing.assert_array_equal(pixels[number], batch)
        assert {(image.tobytes(), label) for image, label in zip(batch, labels, strict=True)} == {
            (image.tobytes(), label) for image, label in zip(*epoch(images(tmp_path, photographs), 0), strict=True)
        }
    assert not np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(epoch(images(tmp_path, photographs, seed=2), 0)[0], pixels[0])


def test_each_epoch_draws_a_new_view(tmp_path: Path, photographs: list[manifest.Entry]) -> None:
    """A view has the size of other images, changes with each epoch, and is the same when an epoch is repeated."""
    augmented = images(
        tmp_path, photographs[:1], size=16 * dataset.OVERSAMPLING, seed=1, augmentation_params=AUGMENTATION
    )
    views = [epoch(augmented, number)[0] for number in (0, 1, 0)]
    assert views[0].shape == (1, 16, 16, 3)
    assert not np.array_equal(views[0], views[1])
    np.testing.assert_array_equal(views[0], views[2])


def test_a_photograph_that_has_changed_is_named(tmp_path: Path, photographs: list[manifest.Entry]) -> None:
    """A photograph with another sha256 than in the manifest stops the reading; the message names it."""
    (tmp_path / photographs[2].path).write_bytes((tmp_path / photographs[3].path).read_bytes())
    with pytest.raises(DataError, match=photographs[2].path):
        images(tmp_path, photographs)
