"""Duplicates: items that are the same, and photographs that look the same."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PerceptualHash = NDArray[np.uint64]

BITS = 256
_EDGE = 16  # cells an edge: BITS is its square
_WORDS = BITS // 64

ItemT = TypeVar("ItemT")


def perceptual_hash(image: Image.Image) -> PerceptualHash:
    """Perceptual hash of a photograph: for each of 16 x 16 cells, whether it is darker than its right neighbour.

    Compression, size, proportions, brightness and small writing change few of the bits; cropping, turning and
    mirroring change many.

    Args:
        image: 8-bit RGB, upright.

    Returns:
        `BITS` bits in an array of shape (4,).
    """
    grey = np.asarray(image.convert("L").resize((_EDGE + 1, _EDGE), Image.Resampling.BOX))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)


class NearestMatch(NamedTuple):
    """The photograph seen before that looks most alike, and in how many bits of the fingerprint it differs."""

    name: str
    bits: int


class HashIndex:
    """The fingerprints of the photographs seen so far; comparing one with 25,000 takes a fraction of a millisecond."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._fingerprints = np.empty((256, _WORDS), np.uint64)

    def add(self, name: str, mark: PerceptualHash) -> None:
        """Remember a photograph's fingerprint under a name."""
        count = len(self._names)
        if count == len(self._fingerprints):
            self._fingerprints = np.concatenate([self._fingerprints, np.empty_like(self._fingerprints)])
        self._fingerprints[count] = mark
        self._names.append(name)

    def nearest(self, mark: PerceptualHash) -> NearestMatch | None:
        """The most alike of those seen, the earliest of several; None before the first."""
        if not self._names:
            return None
        bits = np.bitwise_count(self._fingerprints[: len(self._names)] ^ mark).sum(axis=1)
        index = int(bits.argmin())
        return NearestMatch(self._names[index], int(bits[index]))


def group_duplicates(
    items: Iterable[ItemT], *, first: Callable[[ItemT], Hashable], then: Callable[[ItemT], Hashable]
) -> list[list[ItemT]]:
    """Group the items that agree in two ways; the second is asked only of those that agree in the first.

    Args:
        items: in any order; it is kept within a group.
        first: what is cheap to know, such as size and checksum. None agrees with nothing, not even with None.
        then: what decides, such as a digest of the content. None likewise.

    Returns:
        Groups of two items or more.
    """
    return [group for some in _groups(items, first) for group in _groups(some, then)]


def _groups(items: Iterable[ItemT], key: Callable[[ItemT], Hashable]) -> list[list[ItemT]]:
    found: defaultdict[Hashable, list[ItemT]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return [group for value, group in found.items() if value is not None and len(group) > 1]
