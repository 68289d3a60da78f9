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
    hashes = [near_duplicates.perceptual_hash(image) for image in (first, second)]
    return int(np.bitwise_count(hashes[0] ^ hashes[1]).sum())


def similarity(first: Image.Image, second: Image.Image) -> float:
    """Return the similarity of two pictures' thumbnails."""
    return near_duplicates.similarity(*(near_duplicates.fingerprint(image).thumbnail for image in (first, second)))


def shape(kind: str, number: int, *, centred: bool = False) -> Image.Image:
    """Return a plain shape on a plain colour, of random colours, size and position."""
    random = np.random.default_rng([("disc", "box", "cross").index(kind), number])
    ground, ink = (tuple(map(int, random.integers(0, 256, 3))) for _ in range(2))
    image = Image.new("RGB", (128, 128), ground)
    radius = random.uniform(20, 45)
    x, y = (64, 64) if centred else random.uniform(radius, 128 - radius, 2)
    pen = ImageDraw.Draw(image)
    if kind == "disc":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    elif kind == "box":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=ink)
    else:
        pen.rectangle((x - radius, y - radius / 3, x + radius, y + radius / 3), fill=ink)
        pen.rectangle((x - radius / 3, y - radius, x + radius / 3, y + radius), fill=ink)
    return image


def find_duplicates(images: list[Image.Image]) -> int:
    """Count the pictures that are near duplicates of an earlier one, by the default limit of 24 bits."""
    index, duplicates = near_duplicates.HashIndex(), 0
    for image in images:
        fingerprint = near_duplicates.fingerprint(image)
        if index.find(fingerprint, max_bits=24):
            duplicates += 1
        else:
            index.add("", fingerprint)
    return duplicates


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
    for seed in range(5):
        edited = change(scene(seed)).convert("RGB")
        assert difference(scene(seed), edited) <= 24
        assert similarity(scene(seed), edited) >= near_duplicates.MIN_SIMILARITY
        assert find_duplicates([scene(seed), edited]) == 1


def test_different_photographs_have_different_hashes() -> None:
    """Photographs with nothing in common differ in more than 60 bits, far more than edited copies do."""
    scenes = [scene(seed) for seed in range(12)]
    assert min(difference(a, b) for index, a in enumerate(scenes) for b in scenes[:index]) > 60


def test_a_hash_has_256_bits_whatever_the_size() -> None:
    """The smallest and the thinnest pictures have hashes of the same length as others."""
    for size in ((1, 1), (1, 2000), (2000, 1)):
        photo_hash = near_duplicates.perceptual_hash(Image.new("RGB", size, "red"))
        assert photo_hash.size * photo_hash.itemsize * 8 == near_duplicates.BITS


@pytest.mark.reliability(
    "photographs",
    "icons, drawings and scans, whose flat areas have similar hashes",
    "compared by their pixels, and not rejected as near duplicates",
)
@pytest.mark.parametrize(("centred", "duplicates"), [(False, 0), (True, 1)])
def test_plain_shapes_on_plain_colours_are_no_near_duplicates(centred: bool, duplicates: int) -> None:  # noqa: FBT001
    """Of 180 discs, boxes and crosses over 150 have similar hashes; at most one is a near duplicate."""
    shapes = [shape(kind, number, centred=centred) for number in range(60) for kind in ("disc", "box", "cross")]
    hashes = np.array([near_duplicates.perceptual_hash(image) for image in shapes])
    similar = [np.bitwise_count(hashes[:number] ^ hashes[number]).sum(axis=1).min() <= 24 for number in range(1, 180)]
    assert sum(similar) > 150
    assert find_duplicates(shapes) <= duplicates


def test_the_same_shape_in_another_colour_is_no_near_duplicate() -> None:
    """Icons that differ in colour alone have equal hashes, and are not rejected."""
    icons = []
    for ink in ("red", "blue", "green"):
        icon = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(icon).ellipse((10, 10, 50, 50), fill=ink)
        icons.append(icon)
    assert find_duplicates(icons) == 0
    assert find_duplicates([icons[0], icons[0].resize((48, 48), Image.Resampling.BICUBIC)]) == 1


def test_pictures_without_a_pattern_are_similar_to_each_other_alone() -> None:
    """Two plain colours show nothing and count as near duplicates; a plain colour and a scene do not."""
    red, blue = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    assert similarity(red, blue) == 1
    assert similarity(red, scene(0)) == similarity(scene(0), red) == 0


def test_an_empty_index_has_no_near_duplicate() -> None:
    """The first photograph has no near duplicate."""
    assert near_duplicates.HashIndex().find(near_duplicates.fingerprint(scene(0)), max_bits=256) is None


def test_the_near_duplicate_found_is_the_most_similar_and_the_first_added_of_equals() -> None:
    """The search is exact, however many photographs are in the index."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, (1000, 4), dtype=np.uint64)
    hashes[700] = hashes[300]
    thumbnail = near_duplicates.fingerprint(scene(0)).thumbnail
    index = near_duplicates.HashIndex()
    for number, photo_hash in enumerate(hashes):
        index.add(str(number), near_duplicates.Fingerprint(photo_hash, thumbnail))
    similar = hashes[300] ^ np.array([0b101, 0, 0, 1 << 63], np.uint64)
    assert index.find(near_duplicates.Fingerprint(similar, thumbnail), max_bits=256) == ("300", 3)
    assert index.find(near_duplicates.Fingerprint(similar, thumbnail), max_bits=2) is None
    assert index.find(near_duplicates.Fingerprint(hashes[999], thumbnail), max_bits=24) == ("999", 0)


def test_a_photograph_with_a_similar_hash_does_not_hide_a_near_duplicate() -> None:
    """The near duplicate is found even if a photograph with other pixels has the more similar hash."""
    index = near_duplicates.HashIndex()
    photo_hash, thumbnail = near_duplicates.fingerprint(scene(0))
    index.add("other pixels", near_duplicates.fingerprint(scene(1))._replace(photo_hash=photo_hash))
    index.add("near duplicate", near_duplicates.Fingerprint(photo_hash ^ np.uint64(1), thumbnail))
    assert index.find(near_duplicates.Fingerprint(photo_hash, thumbnail), max_bits=24) == ("near duplicate", 4)
