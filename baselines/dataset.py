"""Dataset: photographs as small square images in memory, the input of a network that is trained from scratch."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.features.dataset import Dataset
from transfer.images import augmentation, decoding, manifest
from transfer.runtime import progress, seeding

# Views are drawn from images whose edge is this many times longer, which is as fine as `augmentation.view` samples.
OVERSAMPLING = 2

Batch = tuple[decoding.Pixels, NDArray[np.float32]]


def read_images(
    folder: Path, photographs: Sequence[manifest.Entry], *, size: int, resizing: decoding.Resizing, name: str
) -> decoding.Pixels:
    """Read photographs into one array.

    Args:
        folder: the folder that the paths of `photographs` are relative to.
        photographs: the photographs to read.
        size: edge of the images, in pixels.
        resizing: as in `decoding.resize`.
        name: label of the progress bar.

    Returns:
        Array of shape (photographs, size, size, 3), RGB, 0 to 255.

    Raises:
        DataError: a photograph has another sha256 than its manifest entry.
    """
    images = np.empty((len(photographs), size, size, 3), np.uint8)
    with progress.bar(total=len(photographs), description=name, unit="photographs") as bar:
        for number, photograph in enumerate(photographs):
            images[number] = decoding.read_square(folder, photograph, size=size, resizing=resizing)
            bar.update()
    return images


class ImageDataset(Dataset):
    """Batches of images and labels.

    A batch depends only on the seed, on `epoch` and on the number of the batch.

    Args:
        images: one square image per photograph, of shape (photographs, edge, edge, 3).
        photographs: the photographs in `images`, in the same order.
        classes: class names; a label is the index of a photograph's class in them.
        batch_size: images per batch; the last batch may be smaller.
        seed: seed of the order and of the views; None keeps the given order.
        augmentation_params: how to draw a new view of each image in every epoch; the edge of a view is
            `OVERSAMPLING` times shorter than that of an image. None returns the images unchanged.
    """

    def __init__(
        self,
        images: decoding.Pixels,
        photographs: Sequence[manifest.Entry],
        *,
        classes: Sequence[str],
        batch_size: int,
        seed: int | None = None,
        augmentation_params: augmentation.Params | None = None,
    ) -> None:
        super().__init__()
        self._images = images
        self._keys = [photograph.sha256 for photograph in photographs]
        indices = {name: index for index, name in enumerate(classes)}
        self._labels = np.array([[indices[photograph.class_name]] for photograph in photographs], np.float32)
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation_params = augmentation_params
        self._epoch_and_order: tuple[int, list[int]] = (-1, list(range(len(photographs))))

    def __len__(self) -> int:
        return math.ceil(len(self._keys) / self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch = self.epoch  # read once: Keras prefetches batches in another thread
        members = self._order(epoch)[index * self._batch_size : (index + 1) * self._batch_size]
        return np.stack([self._image(number, epoch) for number in members]), self._labels[members]

    def _order(self, epoch: int) -> list[int]:
        ordered_for, order = self._epoch_and_order
        if self._seed is None or ordered_for == epoch:
            return order
        key = partial(seeding.digest, self._seed, "order", epoch)
        order = sorted(order, key=lambda number: key(self._keys[number]))
        self._epoch_and_order = (epoch, order)
        return order

    def _image(self, number: int, epoch: int) -> decoding.Pixels:
        image: decoding.Pixels = self._images[number]
        if self._augmentation_params is None:
            return image
        random = np.random.default_rng(seeding.digest(self._seed or 0, "view", epoch, self._keys[number]))
        return augmentation.view(
            Image.fromarray(image),
            augmentation.matrix(self._augmentation_params, random),
            size=len(image) // OVERSAMPLING,
            resizing="squash",
            fill=self._augmentation_params.fill,
        )
