"""Pictures: photographs as small squares, held in memory, as a network takes them that is trained from nothing."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.features import dataset
from transfer.images import augmentation, decoding, manifest
from transfer.runtime import progress, seeding

FINER = 2  # how much larger an edge is kept that views are drawn from: as fine as `augmentation.view` samples

Batch = tuple[decoding.Pixels, NDArray[np.float32]]


def read(
    folder: Path, photographs: Sequence[manifest.Entry], *, size: int, resizing: decoding.Resizing, name: str
) -> decoding.Pixels:
    """Read photographs into one array of shape (photographs, size, size, 3), RGB, 0 to 255.

    Args:
        folder: what the paths of `photographs` are below.
        photographs: what to read.
        size: edge of the squares, in pixels.
        resizing: as in `photos.resized`.
        name: in front of the lines of progress.

    Raises:
        DataError: a photograph is not the one that the manifest describes.
    """
    pixels = np.empty((len(photographs), size, size, 3), np.uint8)
    with progress.bar(total=len(photographs), description=name, unit="photographs") as bar:
        for number, photograph in enumerate(photographs):
            pixels[number] = square(folder, photograph, size=size, resizing=resizing)
            bar.update()
    return pixels


def square(folder: Path, photograph: manifest.Entry, *, size: int, resizing: decoding.Resizing) -> decoding.Pixels:
    """Read one photograph; see `read`."""
    image = decoding.read_photo(folder / photograph.path, sha256=photograph.sha256)
    return decoding.resize(image, size=size, resizing=resizing)


class Pictures(dataset.Dataset):
    """Batches of pictures and labels.

    Args:
        pixels: a picture for each photograph, of shape (photographs, edge, edge, 3).
        photographs: what the pictures show.
        classes: class names in the order of their numbers; the labels are these numbers.
        batch_size: pictures a batch; the last may be smaller.
        seed: of the order and the views; None keeps the given order.
        augmented: how pictures are varied, each anew in each epoch; the views' edge is `FINER` times shorter than the
            pictures'. None shows the pictures as they are.

    Which pictures make up a batch, and how they are varied, follows from the seed, `epoch` and the batch's number
    alone.
    """

    def __init__(
        self,
        pixels: decoding.Pixels,
        photographs: Sequence[manifest.Entry],
        *,
        classes: Sequence[str],
        batch_size: int,
        seed: int | None = None,
        augmented: augmentation.Params | None = None,
    ) -> None:
        super().__init__()
        self._pixels = pixels
        self._keys = [photograph.sha256 for photograph in photographs]
        numbers = {name: number for number, name in enumerate(classes)}
        self._labels = np.array([[numbers[photograph.class_name]] for photograph in photographs], np.float32)
        self._batch_size = batch_size
        self._seed = seed
        self._augmented = augmented
        self._plan: tuple[int, list[int]] = (-1, list(range(len(photographs))))

    def __len__(self) -> int:
        return math.ceil(len(self._keys) / self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch = self.epoch  # Keras reads ahead in a thread of its own
        chosen = self._order(epoch)[index * self._batch_size : (index + 1) * self._batch_size]
        return np.stack([self._shown(number, epoch) for number in chosen]), self._labels[chosen]

    def _order(self, epoch: int) -> list[int]:
        plan = self._plan
        if self._seed is not None and plan[0] != epoch:
            key = partial(seeding.digest, self._seed, "order", epoch)
            plan = self._plan = (epoch, sorted(plan[1], key=lambda number: key(self._keys[number])))
        return plan[1]

    def _shown(self, number: int, epoch: int) -> decoding.Pixels:
        picture: decoding.Pixels = self._pixels[number]
        if self._augmented is None:
            return picture
        random = np.random.default_rng(seeding.digest(self._seed or 0, "view", epoch, self._keys[number]))
        return augmentation.view(
            Image.fromarray(picture),
            augmentation.matrix(self._augmented, random),
            size=len(picture) // FINER,
            resizing="squash",
            fill=self._augmented.fill,
        )
