"""Near duplicates: an index that finds a photograph's most similar one.

A perceptual hash proposes near duplicates, and a comparison of small copies decides: pictures of flat areas, such as
icons, drawings and scans, have similar hashes whatever they show.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PerceptualHash = NDArray[np.uint64]
Thumbnail = NDArray[np.uint8]

BITS = 256
# The least correlation of two near duplicates' thumbnails. Compression, another size, brightness or contrast and the
# loss of colour leave 0.97 or more, small captions nearly always 0.95; different shapes on plain grounds stay below.
MIN_SIMILARITY = 0.95
_EDGE = 16  # cells per edge: BITS is its square
_WORDS = BITS // 64
_THUMBNAIL_EDGE = 32  # 3 KiB a photograph, 75 MB for 25,000
_MIN_CONTRAST = 1.0  # standard deviation below which a thumbnail shows nothing, of 255
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # the weights by which Pillow converts RGB to grey
_MIN_CHROMA = 4.0  # mean difference of the channels below which a thumbnail is grey, of 255


def perceptual_hash(image: Image.Image) -> PerceptualHash:
    """Compute a difference hash: for each of 16 x 16 cells, whether its right neighbour is brighter.

    Compression, size, proportions, brightness and small captions change few bits. Cropping, rotating and mirroring
    change many.

    Args:
        image: 8-bit RGB, upright.

    Returns:
        `BITS` bits in an array of shape (4,).
    """
    grey = np.asarray(image.convert("L").resize((_EDGE + 1, _EDGE), Image.Resampling.BOX))
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)


class Fingerprint(NamedTuple):
    """What two photographs are compared by.

    Args:
        photo_hash: see `perceptual_hash`.
        thumbnail: a small copy with other proportions, array of shape (32, 32, 3), RGB, 0 to 255.
    """

    photo_hash: PerceptualHash
    thumbnail: Thumbnail


def fingerprint(image: Image.Image) -> Fingerprint:
    """Compute the fingerprint of a photograph, 8-bit RGB, upright."""
    edges = (_THUMBNAIL_EDGE, _THUMBNAIL_EDGE)
    return Fingerprint(perceptual_hash(image), np.asarray(image.resize(edges, Image.Resampling.BOX)))


def similarity(first: Thumbnail, second: Thumbnail) -> float:
    """Return the correlation of two thumbnails, -1 to 1, which another brightness or contrast hardly changes.

    It is the smaller one of two: of the pattern, where each channel is compared without its mean, and of the colours,
    where the channels are compared together. Colours do not count if one of the two is grey. Two thumbnails without
    any pattern have 1, and one of them with any other has 0.
    """
    pair = [thumbnail.astype(np.float32) for thumbnail in (first, second)]
    if any(np.ptp(pixels, axis=2).mean() < _MIN_CHROMA for pixels in pair):
        pair = [(pixels @ _LUMA)[..., np.newaxis] for pixels in pair]
    patterns = [pixels - pixels.mean(axis=(0, 1)) for pixels in pair]
    plain = [bool(pattern.std() < _MIN_CONTRAST) for pattern in patterns]
    if any(plain):
        return float(all(plain))
    return min(_cosine(*patterns), _cosine(*(pixels - pixels.mean() for pixels in pair)))


class NearestMatch(NamedTuple):
    """The near duplicate of a photograph in an index.

    Args:
        name: the name under which it was added.
        bits: in how many bits its hash differs, 0 to `BITS`.
    """

    name: str
    bits: int


class HashIndex:
    """Fingerprints by name; a search among 25,000 takes a fraction of a millisecond."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._thumbnails: list[Thumbnail] = []
        self._hashes = np.empty((256, _WORDS), np.uint64)

    def add(self, name: str, photograph: Fingerprint) -> None:
        """Add a photograph's fingerprint under a name."""
        count = len(self._names)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
        self._hashes[count] = photograph.photo_hash
        self._names.append(name)
        self._thumbnails.append(photograph.thumbnail)

    def find(self, photograph: Fingerprint, *, max_bits: int) -> NearestMatch | None:
        """Return the near duplicate whose hash differs in the fewest bits, the first added of equals; None without one.

        Args:
            photograph: the fingerprint to search for.
            max_bits: in how many bits the hashes may differ; the thumbnails must have `MIN_SIMILARITY`, too.
        """
        bits = np.bitwise_count(self._hashes[: len(self._names)] ^ photograph.photo_hash).sum(axis=1)
        proposed = np.flatnonzero(bits <= max_bits)
        for index in proposed[np.argsort(bits[proposed], kind="stable")]:
            if similarity(self._thumbnails[index], photograph.thumbnail) >= MIN_SIMILARITY:
                return NearestMatch(self._names[index], int(bits[index]))
        return None


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))
