import io
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from transfer.images import decoding, near_duplicates


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with large and small forms, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The picture saved as JPEG and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return decoding.decode(file.getvalue())


def written_on(image: Image.Image) -> Image.Image:
    """The picture with a caption."""
    copy = image.copy()
    ImageDraw.Draw(copy).text((10, 10), "www.example.org", fill="white", font_size=16)
    return copy


def difference(first: Image.Image, second: Image.Image) -> int:
    """Bits in which two pictures differ."""
    seen = near_duplicates.HashIndex()
    seen.add("first", near_duplicates.perceptual_hash(first))
    likeness = seen.nearest(near_duplicates.perceptual_hash(second))
    assert likeness is not None
    return likeness.bits


@pytest.mark.parametrize(
    "change",
    [
        lambda image: compressed(image, 30),
        lambda image: image.resize((160, 120)),
        lambda image: image.resize((500, 500)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        ImageOps.grayscale,
        written_on,
    ],
    ids=["compressed", "smaller", "other proportions", "darker", "grey", "written on"],
)
def test_a_photograph_looks_like_its_edited_self(change: Callable[[Image.Image], Image.Image]) -> None:
    """Saving a photograph again, smaller, darker or with a caption leaves it within the default's 24 bits."""
    assert max(difference(scene(seed), change(scene(seed)).convert("RGB")) for seed in range(5)) <= 24


def test_different_photographs_are_far_apart() -> None:
    """Photographs with nothing in common differ in far more bits than edited copies do."""
    scenes = [scene(seed) for seed in range(12)]
    assert min(difference(a, b) for index, a in enumerate(scenes) for b in scenes[:index]) > 60


def test_a_fingerprint_has_its_bits_whatever_the_size() -> None:
    """The smallest and the longest pictures have fingerprints like any other."""
    for size in ((1, 1), (1, 2000), (2000, 1)):
        mark = near_duplicates.perceptual_hash(Image.new("RGB", size, "red"))
        assert mark.size * mark.itemsize * 8 == near_duplicates.BITS


def test_nothing_looks_alike_before_anything_was_seen() -> None:
    """The first photograph is never a duplicate."""
    assert near_duplicates.HashIndex().nearest(near_duplicates.perceptual_hash(scene(0))) is None


def test_the_nearest_of_many_is_found_and_the_earliest_of_equals() -> None:
    """The search is exact, however many photographs were seen."""
    chance = np.random.default_rng(0)
    marks = chance.integers(0, 2**64, (1000, 4), dtype=np.uint64)
    marks[700] = marks[300]
    seen = near_duplicates.HashIndex()
    for number, mark in enumerate(marks):
        seen.add(str(number), mark)
    wanted = marks[300] ^ np.array([0b101, 0, 0, 1 << 63], np.uint64)
    assert seen.nearest(wanted) == ("300", 3)
    assert seen.nearest(marks[999]) == ("999", 0)


def test_items_are_grouped_when_they_agree_in_both_ways() -> None:
    """The dear comparison is made only for items that agree in the cheap one, and decides."""
    asked: list[str] = []

    def then(word: str) -> str:
        asked.append(word)
        return word.lower()

    words = ["cat", "dog", "CAT", "horse", "Dog", "cat"]
    assert near_duplicates.group_duplicates(words, first=len, then=then) == [["cat", "CAT", "cat"], ["dog", "Dog"]]
    assert "horse" not in asked


def test_what_is_not_known_agrees_with_nothing() -> None:
    """Items without an answer are in no group, not even together."""
    assert (
        near_duplicates.group_duplicates([1, 2, 3, 4], first=lambda n: None if n < 3 else 0, then=lambda _: None) == []
    )


def test_groups_do_not_depend_on_what_lies_between() -> None:
    """The same groups are found in any order."""
    numbers = list(range(60))
    random.Random(0).shuffle(numbers)  # noqa: S311 - a test repeats its chance
    groups = near_duplicates.group_duplicates(numbers, first=lambda n: n % 4, then=lambda n: n % 20)
    assert sorted(map(sorted, groups)) == [[n, n + 20, n + 40] for n in range(20)]
