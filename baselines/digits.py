"""Digits: handwritten digits, their split, their places in a larger frame, and batches of them."""

import hashlib
import math
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from transfer.features.dataset import Dataset
from transfer.runtime import seeding

CLASSES = 10
SCIKIT_LEARN_EDGE = 8  # pixels
_SCIKIT_LEARN_INK = 16  # of its darkest pixel

Placement = Literal["centred", "moved"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Batch = tuple[Images, NDArray[np.float32]]


class Digits(NamedTuple):
    """Images of shape (digits, edge, edge) or, in frames, (digits, frame, frame, 1), and a label from 0 to 9 for each.

    Pixels are from 0 for paper to 255 for ink.
    """

    images: Images
    labels: Labels

    def sha256(self) -> str:
        """Return the SHA-256 of images and labels, in hexadecimal."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


class Splits(NamedTuple):
    """The digits of each split."""

    train: Digits
    validation: Digits
    test: Digits


def scikit_learn() -> Digits:
    """Return the 1,797 digits of 8 by 8 pixels that are part of scikit-learn."""
    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / _SCIKIT_LEARN_INK)).astype(np.uint8)
    return Digits(images, bunch.target.astype(np.int64))


def divide(digits: Digits, *, fraction: float, seed: int, purpose: str) -> tuple[Digits, Digits]:
    """Divide digits at random.

    Args:
        digits: at least two.
        fraction: of the digits that the second part gets, between 0 and 1; each part gets at least one digit.
        seed: of the choice.
        purpose: of the second part; with the same seed, each purpose gets another choice.
    """
    order = np.random.default_rng(seeding.digest(seed, purpose)).permutation(len(digits.labels))
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
    first, second = np.sort(order[count:]), np.sort(order[:count])
    return Digits(digits.images[first], digits.labels[first]), Digits(digits.images[second], digits.labels[second])


def place(images: Images, placement: Placement, *, frame: int, seed: int, purpose: str) -> Images:
    """Put each digit into a larger, empty frame.

    Args:
        images: shape (digits, edge, edge).
        placement: `centred`, or `moved`: at a place of its own, each place within the frame being equally likely.
        frame: edge of the frame in pixels, at least that of the images.
        seed: of the places.
        purpose: of the images; with the same seed, each purpose gets other places.

    Returns:
        Array of shape (digits, frame, frame, 1).
    """
    count, edge = images.shape[:2]
    free = frame - edge
    corners = np.full((count, 2), free // 2)
    if placement == "moved":
        random = np.random.default_rng(seeding.digest(seed, "places", purpose))
        corners = random.integers(0, free, (count, 2), endpoint=True)
    placed = np.zeros((count, frame, frame, 1), np.uint8)
    for target, image, (top, left) in zip(placed, images, corners, strict=True):
        target[top : top + edge, left : left + edge, 0] = image
    return placed


class DigitDataset(Dataset):
    """Batches of images and labels, which depend only on the seed, on `epoch` and on the number of the batch.

    Args:
        digits: images of shape (digits, frame, frame, 1).
        batch_size: images per batch; the last batch may be smaller.
        seed: of the order, a new one in each epoch; None keeps the given order.
    """

    def __init__(self, digits: Digits, *, batch_size: int, seed: int | None = None) -> None:
        super().__init__()
        self._images = digits.images
        self._labels = digits.labels[:, None].astype(np.float32)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch_and_order = (-1, np.arange(len(digits.labels)))

    def __len__(self) -> int:
        return math.ceil(len(self._labels) / self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        epoch = self.epoch  # read once: Keras prefetches batches in another thread
        members = self._order(epoch)[index * self._batch_size : (index + 1) * self._batch_size]
        return self._images[members], self._labels[members]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        ordered_for, order = self._epoch_and_order
        if self._seed is None or ordered_for == epoch:
            return order
        order = np.random.default_rng(seeding.digest(self._seed, "order", epoch)).permutation(len(order))
        self._epoch_and_order = (epoch, order)
        return order
