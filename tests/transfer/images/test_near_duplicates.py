import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from transfer.images import decoding, near_duplicates


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Return a random picture with large and small shapes, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return the picture after compression as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return decoding.decode(file.getvalue())


def captioned(image: Image.Image) -> Image.Image:
    """Return the picture with a caption."""
    copy = image.copy()
    ImageDraw.Draw(copy).text((10, 10), "www.example.org", fill="white", font_size=16)
    return copy


def difference(first: Image.Image, second: Image.Image) -> int:
    """Return the number of bits in which the hashes of two pictures differ."""
    index = near_duplicates.HashIndex()
    index.add("first", near_duplicates.perceptual_hash(first))
    match = index.nearest(near_duplicates.perceptual_hash(second))
    assert match is not None
    return match.bits


@pytest.mark.parametrize(
    "change",
    [
        lambda image: compressed(image, 30),
        lambda image: image.resize((160, 120)),
        lambda image: image.resize((500, 500)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        ImageOps.grayscale,
        captioned,
    ],
    ids=["compressed", "smaller", "other proportions", "darker", "grey", "captioned"],
)
def test_an_edited_photograph_is_a_near_duplicate(change: Callable[[Image.Image], Image.Image]) -> None:
    """Compressing, resizing, darkening or captioning a photograph changes at most 24 bits, the default limit."""
    assert max(difference(scene(seed), change(scene(seed)).convert("RGB")) for seed in range(5)) <= 24


def test_different_photographs_have_different_hashes() -> None:
    """Photographs with nothing in common differ in more than 60 bits, far more than edited copies do."""
    scenes = [scene(seed) for seed in range(12)]
    assert min(difference(a, b) for index, a in enumerate(scenes) for b in scenes[:index]) > 60


def test_a_hash_has_256_bits_whatever_the_size() -> None:
    """The smallest and the thinnest pictures have hashes of the same length as others."""
    for size in ((1, 1), (1, 2000), (2000, 1)):
        photo_hash = near_duplicates.perceptual_hash(Image.new("RGB", size, "red"))
        assert photo_hash.size * photo_hash.itemsize * 8 == near_duplicates.BITS


def test_an_empty_index_has_no_nearest_match() -> None:
    """The first photograph has no near duplicate."""
    assert near_duplicates.HashIndex().nearest(near_duplicates.perceptual_hash(scene(0))) is None


def test_the_nearest_match_is_the_first_added_of_equals() -> None:
    """The search is exact, however many photographs are in the index."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (1000, 4), dtype=np.uint64)
    hashes[700] = hashes[300]
    index = near_duplicates.HashIndex()
    for number, photo_hash in enumerate(hashes):
        index.add(str(number), photo_hash)
    similar = hashes[300] ^ np.array([0b101, 0, 0, 1 << 63], np.uint64)
    assert index.nearest(similar) == ("300", 3)
    assert index.nearest(hashes[999]) == ("999", 0)
