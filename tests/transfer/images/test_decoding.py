import hashlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, strategies
from PIL import Image

from tests.damage import damaged
from transfer.images import decoding, manifest
from transfer.images.decoding import Resizing, UnreadablePhoto
from transfer.runtime.errors import DataError

ROOT = Path(__file__).parents[3]
PNG_START = b"\x89PNG\r\n\x1a\n"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode the picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Return a picture with smooth colours, which JPEG preserves, and four different corners."""
    corners = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def exif_orientation(orientation: int) -> Image.Exif:
    """Return EXIF with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def largest_difference(first: Image.Image, second: Image.Image) -> int:
    """Return the largest difference of two pictures, over pixels and channels."""
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


def test_a_photograph_must_have_the_sha256_of_the_manifest(tmp_path: Path) -> None:
    """A photograph whose file was changed or truncated is an error with its path, its size and the command to run."""
    data = encode(picture())
    sha256 = hashlib.sha256(data).hexdigest()
    file = tmp_path / "1.png"
    file.write_bytes(data)
    assert decoding.read_photo(file, sha256=sha256).size == (40, 24)
    for changed in (data[:100], b"", encode(picture().rotate(180))):
        file.write_bytes(changed)
        with pytest.raises(DataError, match=f"1.png must be .*{len(changed):,} bytes.*dvc repro .* subsample"):
            decoding.read_photo(file, sha256=sha256)


def test_a_square_is_read_by_its_entry_in_the_manifest(tmp_path: Path) -> None:
    """The photograph of an entry is read, resized, and checked against the entry's SHA-256."""
    data = encode(picture())
    entry = manifest.Entry("photos/cat/1.png", "cat", hashlib.sha256(data).hexdigest(), 40, 24)
    file = tmp_path / entry.path
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    for resizing in get_args(Resizing):
        square = decoding.read_square(tmp_path, entry, size=32, resizing=resizing)
        np.testing.assert_array_equal(square, decoding.resize(picture(), size=32, resizing=resizing))
    file.write_bytes(encode(picture().rotate(180)))
    with pytest.raises(DataError, match=r"1\.png must be the photograph that the manifest describes"):
        decoding.read_square(tmp_path, entry, size=32, resizing="crop")


@pytest.mark.reliability("photographs", "PNG, GIF, BMP or WebP named .jpg", "decoded by content, whatever the name")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "AVIF"])
def test_photographs_of_every_supported_format_are_decoded(kind: str) -> None:
    """A decoded photograph has its size and, as far as its format preserves them, its colours."""
    image = decoding.decode(encode(picture(), kind))
    assert image.mode == "RGB"
    assert image.size == (40, 24)
    assert largest_difference(image, picture()) < (60 if kind in ("JPEG", "WEBP", "GIF", "AVIF") else 1)


def test_decoding_a_lossless_photograph_changes_no_pixel() -> None:
    """The pixels of a PNG are those that were encoded."""
    assert largest_difference(decoding.decode(encode(picture())), picture()) == 0


@pytest.mark.reliability("photographs", "rotated or mirrored, with an EXIF orientation", "rotated upright")
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_photographs_are_rotated_by_their_exif_orientation(orientation: int, stored: Image.Transpose | None) -> None:
    """Each of the eight orientations gives the same upright picture."""
    stored_picture = picture() if stored is None else picture().transpose(stored)
    assert (
        largest_difference(decoding.decode(encode(stored_picture, exif=exif_orientation(orientation))), picture()) == 0
    )


@pytest.mark.reliability("photographs", "damaged EXIF", "used as stored, without rotation")
@pytest.mark.parametrize("damage", [b"XX*\0", b"MM\0*\0\0\xff\xff", b"\0" * 8, b"\xff" * 20])
def test_a_photograph_with_damaged_exif_is_decoded(damage: bytes) -> None:
    """Damaged metadata does not make undamaged pixels unreadable."""
    data = bytearray(encode(picture(), "JPEG", exif=exif_orientation(6)))
    start = data.index(b"Exif\0\0") + 6
    data[start : start + len(damage)] = damage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns that the EXIF is corrupt
        assert decoding.decode(bytes(data)).size == (40, 24)


def test_an_invalid_exif_field_does_not_prevent_rotation() -> None:
    """A photograph is rotated even if another EXIF field has an invalid value, which Pillow cannot write back."""
    # two fields: a resolution (282) declared as text, and orientation (274) 6
    fields = struct.pack("<HHHLL", 2, 282, 2, 4, 0x00414141) + struct.pack("<HHLHH", 274, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + fields + b"\0\0\0\0"
    assert decoding.decode(encode(picture(), "JPEG", exif=exif)).size == (24, 40)


COLOURS = pytest.mark.reliability(
    "photographs", "CMYK, grey, a palette, 16 bits, transparency", "decoded as 8-bit RGB; transparent pixels on white"
)


@COLOURS
def test_transparent_pixels_are_blended_with_white() -> None:
    """A transparent pixel is white, whatever colour is stored for it."""
    half_transparent = Image.new("RGBA", (2, 1), (*RED, 255))
    half_transparent.putpixel((1, 0), (*BLUE, 0))
    decoded = decoding.decode(encode(half_transparent))
    assert [decoded.getpixel((0, 0)), decoded.getpixel((1, 0))] == [RED, WHITE]


@COLOURS
def test_a_transparent_palette_colour_is_blended_with_white() -> None:
    """The transparent colour of a GIF or a palette PNG is white."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    decoded = decoding.decode(encode(image, transparency=1))
    assert [decoded.getpixel((0, 0)), decoded.getpixel((1, 0))] == [RED, WHITE]


@COLOURS
def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    """65,535 is white and half of it medium grey: values are scaled, not clipped."""
    levels = np.array([[0, 128 * 257, 65535]], np.uint16)
    decoded = decoding.decode(encode(Image.fromarray(levels)))
    assert [decoded.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


@COLOURS
@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "P"])
def test_every_colour_mode_is_converted_to_rgb(mode: str) -> None:
    """Grey, black-and-white, palette and CMYK pictures are decoded as RGB."""
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = decoding.decode(encode(Image.new("RGB", (8, 8), "white").convert(mode), kind))
    assert image.mode == "RGB"
    assert image.getpixel((4, 4)) == WHITE


@COLOURS
def test_a_transparent_colour_of_sixteen_bits_is_blended_with_white() -> None:
    """The transparent colour of a 16-bit PNG is white, as that of an 8-bit one, in grey and in RGB."""
    levels = np.array([[0, 128 * 257, 65535, 1]], np.uint16)
    grey = decoding.decode(encode(Image.fromarray(levels), transparency=0))
    assert [grey.getpixel((x, 0)) for x in range(4)] == [WHITE, (128, 128, 128), WHITE, (0, 0, 0)]
    header = struct.pack(">LLBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0))
    colour = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    chunks = {b"IHDR": header, b"tRNS": colour, b"IDAT": pixels, b"IEND": b""}
    rgb = decoding.decode(PNG_START + b"".join(chunk(*item) for item in chunks.items()))
    assert [rgb.getpixel((x, 0)) for x in range(2)] == [WHITE, RED]


@COLOURS
@pytest.mark.parametrize(
    ("mode", "reason"), [("F", "floating-point values"), ("I", "grey values of 32 bits"), ("LAB", "CIELAB colours")]
)
def test_pixels_without_a_range_from_black_to_white_are_unreadable(mode: str, reason: str) -> None:
    """Measurements in a TIFF are rejected, as they would be decoded as black or white pictures."""
    with pytest.raises(UnreadablePhoto, match=f"^{reason}, which cannot be converted to 8-bit RGB$"):
        decoding.decode(encode(Image.new(mode, (8, 8)), "TIFF"))


def test_the_first_page_of_a_tiff_is_used() -> None:
    """A TIFF with many pages is decoded as its first page, rotated by its orientation, and quickly."""
    pages = [picture(), *(Image.new("RGB", (8, 8), RED) for _ in range(500))]
    for compression in ("raw", "tiff_lzw"):
        data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression=compression)
        assert largest_difference(decoding.decode(data), picture()) == 0
        turned = encode(picture().transpose(Image.Transpose.ROTATE_90), "TIFF", exif=exif_orientation(6))
        assert largest_difference(decoding.decode(turned), picture()) == 0


def test_the_first_frame_of_an_animation_is_used() -> None:
    """An animated GIF is decoded as its first frame."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoding.decode(data).getpixel((0, 0)) == RED


@pytest.mark.reliability("photographs", "empty", "rejected as `unreadable`, and replaced by the next of its class")
def test_an_empty_file_is_unreadable() -> None:
    """The reason distinguishes an empty file from a damaged one."""
    with pytest.raises(UnreadablePhoto, match=r"^empty file$"):
        decoding.decode(b"")


@pytest.mark.reliability(
    "photographs",
    "text, HTML or `Thumbs.db` named .jpg",
    "rejected as `unreadable`, and replaced by the next of its class",
)
@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"<html>404</html>",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
        encode(picture(), "ICO"),
        encode(picture(), "PPM"),
    ],
    ids=["text", "HTML", "Thumbs.db", "ICO", "PPM"],
)
def test_files_of_other_formats_are_unreadable(data: bytes) -> None:
    """The reason lists the supported formats; a web page is none of them, whatever its name."""
    with pytest.raises(UnreadablePhoto, match=r"not one of JPEG, PNG, GIF, BMP, WEBP, TIFF, AVIF"):
        decoding.decode(data)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.reliability("photographs", "truncated", "rejected as `unreadable`, and replaced by the next of its class")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_truncated_photograph_is_unreadable(kind: str) -> None:
    """Half a file is not decoded as a photograph with a grey half."""
    data = encode(NOISE, kind)
    with pytest.raises(UnreadablePhoto, match="cut short or damaged"):
        decoding.decode(data[: len(data) // 2])


@pytest.mark.reliability(
    "photographs", "damaged in the middle", "rejected as `unreadable`: PNG and GIF always, JPEG mostly"
)
@pytest.mark.parametrize(("kind", "undetected"), [("JPEG", 5), ("PNG", 0), ("GIF", 0)])
def test_random_bytes_in_the_middle_are_detected(kind: str, undetected: int) -> None:
    """Random bytes in the middle of a file make a photograph unreadable, except for some JPEG files."""
    data = encode(NOISE.resize((200, 200)), kind)
    garbage = [np.random.default_rng(seed).bytes(len(data) // 4) for seed in range(20)]
    outcomes = [outcome(data[: len(data) // 2] + noise + data[len(data) // 2 + len(noise) :]) for noise in garbage]
    assert outcomes.count("RGB") <= undetected
    assert {result[:20] for result in outcomes} <= {"RGB", "cut short or damaged"}


@pytest.mark.reliability(
    "photographs", "damaged in the middle", "used as decoded in BMP and WebP, which have no checksum"
)
@pytest.mark.parametrize("kind", ["BMP", "WEBP"])
def test_random_bytes_in_a_format_without_checksum_are_not_detected(kind: str) -> None:
    """BMP and WebP have no checksum, so damage to their pixels gives another picture, not an error."""
    data = encode(NOISE, kind)
    start = len(data) // 2
    assert decoding.decode(data[:start] + np.random.default_rng(1).bytes(500) + data[start + 500 :]).size == (64, 64)


def outcome(data: bytes) -> str:
    """Return the mode of the decoded picture, or the reason why it is unreadable."""
    try:
        return decoding.decode(data).mode
    except UnreadablePhoto as error:
        return str(error)


BOMB = pytest.mark.reliability(
    "photographs",
    "a decompression bomb: few bytes, many pixels or many scans",
    "rejected as `unreadable` before it is decoded",
)


@BOMB
def test_memory_for_decoding_is_bounded() -> None:
    """Decoding takes at most 9.5 bytes of memory per pixel, whatever the colour mode and orientation."""
    program = """
import io, re
from PIL import Image, PngImagePlugin
from transfer.images import decoding

exif = Image.Exif()
exif[0x0112] = 6
files = []
for mode in ("RGB", "I;16", "RGBA", "LA", "P"):
    file = io.BytesIO()
    Image.new(mode, (4000, 4000)).save(file, "PNG", exif=exif, compress_level=1)
    files.append(file.getvalue())
before = int(re.search("VmRSS: *(.*) kB", open("/proc/self/status").read())[1])
for data in files:
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak memory
    assert decoding.decode(data).size == (4000, 4000)
    print(int(re.search("VmHWM: *(.*) kB", open("/proc/self/status").read())[1]) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 5
    assert max(kilobytes) < 9.5 * 4000 * 4000 / 1024


def with_exif(kind: str, **options: Any) -> bytes:
    """Encode the picture with several EXIF fields."""
    exif = exif_orientation(6)
    exif[0x010E] = "a description"
    exif[0x011A] = 72.5
    return encode(picture(), kind, exif=exif, **options)


UNDAMAGED = {
    "JPEG": [with_exif("JPEG"), with_exif("JPEG", progressive=True), encode(picture().convert("CMYK"), "JPEG")],
    "PNG": [with_exif("PNG"), encode(picture().convert("P")), encode(picture().convert("LA"))],
    "GIF": [encode(picture(), "GIF"), encode(picture(), "GIF", save_all=True, append_images=[NOISE])],
    "BMP": [encode(picture(), "BMP"), encode(picture().convert("P"), "BMP")],
    "WEBP": [with_exif("WEBP"), with_exif("WEBP", lossless=True)],
    "TIFF": [with_exif("TIFF"), with_exif("TIFF", compression="tiff_lzw"), encode(picture().convert("P"), "TIFF")],
    "AVIF": [with_exif("AVIF", speed=10)],
}


@pytest.mark.reliability(
    "photographs", "damaged in any way (Hypothesis)", "decoded as RGB, or rejected with a reason of one line"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNDAMAGED)
@given(data=strategies.data())
def test_a_damaged_file_is_decoded_or_unreadable(kind: str, data: strategies.DataObject) -> None:
    """Whatever the damage, a file is decoded as RGB or unreadable for a reason of one line; no other error occurs."""
    reason = outcome(data.draw(damaged(*UNDAMAGED[kind])))
    assert 0 < len(reason) < 120
    assert reason.isprintable()


THIN = pytest.mark.reliability(
    "photographs", "1 by 1, or 60,000 by 1 pixels", "used, and resized to the network's square like any other"
)


@THIN
@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("resizing", get_args(Resizing))
def test_the_smallest_and_thinnest_photographs_are_visible(resizing: Resizing, size: tuple[int, int]) -> None:
    """Some pixels of the square have the photograph's colour, however thin it is."""
    image = decoding.decode(encode(Image.new("RGB", size, RED)))
    assert image.size == size
    assert (decoding.resize(image, size=32, resizing=resizing) == RED).all(axis=-1).any()


@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (7, 7), (1, 500), (500, 1), (1, 1)])
def test_resized_photographs_are_squares(resizing: Resizing, size: tuple[int, int]) -> None:
    """Every photograph, however long and thin, is resized to the shape that the network takes."""
    pixels = decoding.resize(picture(*size), size=32, resizing=resizing)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def striped() -> Image.Image:
    """Return a picture twice as wide as high: a red, two green and a blue quarter, from left to right."""
    quarters = np.array([[RED, GREEN, GREEN, BLUE]], np.uint8)
    return Image.fromarray(quarters.repeat(20, axis=1).repeat(40, axis=0))


def test_squash_keeps_the_complete_photograph_and_changes_its_proportions() -> None:
    """The left and the right quarter are in the square."""
    pixels = decoding.resize(striped(), size=32, resizing="squash")
    assert [tuple(pixels[16, x]) for x in (0, 16, 31)] == [RED, GREEN, BLUE]


def test_crop_keeps_the_middle_square() -> None:
    """The middle fills the square; of the outer quarters only a shade remains at the edge."""
    pixels = decoding.resize(striped(), size=32, resizing="crop")
    assert (pixels[:, 1:-1] == GREEN).all()
    assert pixels[:, :, 1].min() > 200


def test_fit_keeps_the_complete_photograph_on_a_neutral_background() -> None:
    """The photograph keeps its proportions; above and below it is the mean colour of ImageNet."""
    pixels = decoding.resize(striped(), size=32, resizing="fit")
    assert [tuple(pixels[16, x]) for x in (0, 16, 31)] == [RED, GREEN, BLUE]
    assert (pixels[:8] == decoding.BACKGROUND).all()
    assert (pixels[-8:] == decoding.BACKGROUND).all()


def test_crop_boxes_are_the_part_of_a_photograph_that_fills_the_square() -> None:
    """A box is left, top, right and bottom in the photograph's own pixels."""
    assert decoding.crop_box(400, 300, "squash") == (0, 0, 400, 300)
    assert decoding.crop_box(400, 300, "crop") == (50, 0, 350, 300)
    assert decoding.crop_box(400, 300, "fit") == (0, -50, 400, 350)
    assert decoding.crop_box(300, 400, "crop") == (0, 50, 300, 350)
