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
from transfer.images import decoding
from transfer.images.decoding import Resizing, UnreadablePhoto
from transfer.runtime.errors import DataError

ROOT = Path(__file__).parents[3]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Smooth colours, so that JPEG keeps them, and different corners."""
    corners = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def oriented(orientation: int) -> Image.Exif:
    """EXIF that tells how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def largest_difference(first: Image.Image, second: Image.Image) -> int:
    """Of any pixel in any colour."""
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


def test_a_kept_photograph_is_the_one_it_was(tmp_path: Path) -> None:
    """A photograph whose file was changed or cut is refused with its name, what was found and the cure."""
    data = encoded(picture())
    sha256 = hashlib.sha256(data).hexdigest()
    file = tmp_path / "1.png"
    file.write_bytes(data)
    assert decoding.read_photo(file, sha256=sha256).size == (40, 24)
    for changed in (data[:100], b"", encoded(picture().rotate(180))):
        file.write_bytes(changed)
        with pytest.raises(DataError, match=f"1.png must be .*{len(changed):,} bytes.*dvc repro .* subsample"):
            decoding.read_photo(file, sha256=sha256)


@pytest.mark.reliability(
    "photographs", "PNG, GIF, BMP or WebP named .jpg", "read as what they are: the content tells, not the name"
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF"])
def test_photographs_of_every_known_format_are_read(kind: str) -> None:
    """A photograph has its size and, within what its format keeps, its colours."""
    image = decoding.decode(encoded(picture(), kind))
    assert image.mode == "RGB"
    assert image.size == (40, 24)
    assert largest_difference(image, picture()) < (60 if kind in ("JPEG", "WEBP", "GIF") else 1)


def test_a_photograph_stays_what_it_is_when_it_needs_no_change() -> None:
    """PNG pixels arrive unchanged."""
    assert largest_difference(decoding.decode(encoded(picture())), picture()) == 0


@pytest.mark.reliability("photographs", "lying on a side or mirrored, as EXIF tells", "turned upright")
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
def test_photographs_are_turned_upright(orientation: int, stored: Image.Transpose | None) -> None:
    """A phone held in any of eight ways gives the same upright picture."""
    lying = picture() if stored is None else picture().transpose(stored)
    assert largest_difference(decoding.decode(encoded(lying, exif=oriented(orientation))), picture()) == 0


@pytest.mark.reliability("photographs", "damaged EXIF", "taken as it lies")
@pytest.mark.parametrize("damage", [b"XX*\0", b"MM\0*\0\0\xff\xff", b"\0" * 8, b"\xff" * 20])
def test_damaged_exif_does_not_cost_the_photograph(damage: bytes) -> None:
    """Pixels that are whole are used even where the notes about them are not."""
    data = bytearray(encoded(picture(), "JPEG", exif=oriented(6)))
    start = data.index(b"Exif\0\0") + 6
    data[start : start + len(damage)] = damage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says that the EXIF is corrupt
        assert decoding.decode(bytes(data)).size == (40, 24)


def test_notes_that_cannot_be_written_back_do_not_cost_the_photograph() -> None:
    """A photograph to be turned, with a nonsensical value in another EXIF field, is turned all the same."""
    # two fields: a resolution (282) that claims to be text, and orientation (274) 6
    fields = struct.pack("<HHHLL", 2, 282, 2, 4, 0x00414141) + struct.pack("<HHLHH", 274, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + fields + b"\0\0\0\0"
    assert decoding.decode(encoded(picture(), "JPEG", exif=exif)).size == (24, 40)


COLOURS = pytest.mark.reliability(
    "photographs", "CMYK, grey, a palette, 16 bits, transparency", "read as 8-bit RGB; transparent parts on white"
)


@COLOURS
def test_transparent_parts_are_laid_on_white() -> None:
    """What cannot be seen is white, whatever colour is stored below it."""
    half = Image.new("RGBA", (2, 1), (*RED, 255))
    half.putpixel((1, 0), (*BLUE, 0))
    shown = decoding.decode(encoded(half))
    assert [shown.getpixel((0, 0)), shown.getpixel((1, 0))] == [RED, WHITE]


@COLOURS
def test_transparency_of_a_palette_is_laid_on_white() -> None:
    """A GIF's or palette PNG's transparent colour is white too."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    shown = decoding.decode(encoded(image, transparency=1))
    assert [shown.getpixel((0, 0)), shown.getpixel((1, 0))] == [RED, WHITE]


@COLOURS
def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    """65,535 is white and half of it half grey: nothing is cut off."""
    levels = np.array([[0, 128 * 257, 65535]], np.uint16)
    shown = decoding.decode(encoded(Image.fromarray(levels)))
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


@COLOURS
@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "P"])
def test_any_colour_mode_becomes_rgb(mode: str) -> None:
    """Grey, black-and-white, palette and print colours are all read."""
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = decoding.decode(encoded(Image.new("RGB", (8, 8), "white").convert(mode), kind))
    assert image.mode == "RGB"
    assert image.getpixel((4, 4)) == WHITE


def test_the_first_picture_of_an_animation_is_taken() -> None:
    """A GIF that moves counts as the picture it starts with."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoding.decode(data).getpixel((0, 0)) == RED


@pytest.mark.reliability("photographs", "empty", "rejected as `unreadable`, and replaced by the next of its class")
def test_an_empty_file_is_refused_by_that_name() -> None:
    """The reason tells an empty file from a damaged one."""
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
        encoded(picture(), "TIFF"),
        encoded(picture(), "PPM"),
    ],
    ids=["text", "HTML", "Thumbs.db", "TIFF", "PPM"],
)
def test_other_files_are_refused_with_the_formats_that_are_known(data: bytes) -> None:
    """A web page or a format outside the list is no photograph, whatever its name."""
    with pytest.raises(UnreadablePhoto, match=r"not one of JPEG, PNG, GIF, BMP, WEBP"):
        decoding.decode(data)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.reliability("photographs", "truncated", "rejected as `unreadable`, and replaced by the next of its class")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_photograph_cut_short_is_refused(kind: str) -> None:
    """Half a file is not passed off as a photograph with a grey half."""
    data = encoded(NOISE, kind)
    with pytest.raises(UnreadablePhoto, match="cut short or damaged"):
        decoding.decode(data[: len(data) // 2])


@pytest.mark.reliability(
    "photographs", "garbage midway", "rejected as `unreadable`: in PNG and GIF always, in JPEG mostly"
)
@pytest.mark.parametrize(("kind", "most"), [("JPEG", 5), ("PNG", 0), ("GIF", 0)])
def test_garbage_midway_is_noticed(kind: str, most: int) -> None:
    """Bytes in the middle that belong to something else make a photograph unreadable."""
    data = encoded(NOISE.resize((200, 200)), kind)
    garbage = [np.random.default_rng(seed).bytes(len(data) // 4) for seed in range(20)]
    outcomes = [outcome(data[: len(data) // 2] + each + data[len(data) // 2 + len(each) :]) for each in garbage]
    assert outcomes.count("RGB") <= most
    assert {each[:20] for each in outcomes} <= {"RGB", "cut short or damaged"}


@pytest.mark.reliability("photographs", "garbage midway", "taken as it looks where BMP or WebP cannot tell")
@pytest.mark.parametrize("kind", ["BMP", "WEBP"])
def test_garbage_that_a_format_cannot_tell_is_read_as_it_looks(kind: str) -> None:
    """BMP and WebP have no checksum, so that damage before packing is a matter of the picture."""
    data = encoded(NOISE, kind)
    start = len(data) // 2
    assert decoding.decode(data[:start] + np.random.default_rng(1).bytes(500) + data[start + 500 :]).size == (64, 64)


def outcome(data: bytes) -> str:
    """The mode of the picture read, or the reason for refusing it."""
    try:
        return decoding.decode(data).mode
    except UnreadablePhoto as reason:
        return str(reason)


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that claims to be large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BOMB = pytest.mark.reliability(
    "photographs",
    "a decompression bomb: few bytes, and many pixels or endless work",
    "rejected as `unreadable` before it is decoded",
)


@BOMB
@pytest.mark.parametrize(("width", "height"), [(9_460, 9_460), (20_000, 20_000), (2**31 - 1, 1), (10**6, 10**6)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_photograph_with_too_many_pixels_is_refused(width: int, height: int) -> None:
    """A file of a hundred bytes cannot fill the memory."""
    with pytest.raises(UnreadablePhoto, match="more than 89,478,485 pixels"):
        decoding.decode(bomb(width, height))


@BOMB
def test_a_jpeg_that_goes_over_its_picture_again_and_again_is_refused() -> None:
    """A small file cannot keep a core busy for hours; neither ten scans nor a camera's preview count."""
    whole = encoded(picture(), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    assert decoding.decode(whole[:-2] + last * 50 + whole[-2:]).size == (40, 24)
    with pytest.raises(UnreadablePhoto, match=r"^more than 100 scans$"):
        decoding.decode(whole[:-2] + last * 100 + whole[-2:])
    preview = b"\xff\xe1\xff\xf0" + b"\xff\xda" * 0x7FF7
    assert decoding.decode(whole[:2] + preview + whole[2:]).size == (40, 24)


@BOMB
def test_the_largest_photographs_take_a_bounded_memory() -> None:
    """On the way to RGB a photograph takes some twelve bytes a pixel at most, whatever its colours and position."""
    program = """
import io, re
from PIL import Image
from transfer.images import decoding

exif = Image.Exif()
exif[0x0112] = 6
files = []
for mode in ("I;16", "RGBA", "LA", "P"):
    file = io.BytesIO()
    Image.new(mode, (4000, 4000)).save(file, "PNG", exif=exif, compress_level=1)
    files.append(file.getvalue())
before = int(re.search("VmRSS: *(.*) kB", open("/proc/self/status").read())[1])
for data in files:
    open("/proc/self/clear_refs", "w").write("5")  # the highest memory so far is forgotten
    assert photos.read(data).size == (4000, 4000)
    print(int(re.search("VmHWM: *(.*) kB", open("/proc/self/status").read())[1]) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 4
    assert max(kilobytes) < 13 * 4000 * 4000 / 1024


def with_exif(kind: str, **options: Any) -> bytes:
    """The picture as a file's bytes with notes of several kinds in it."""
    exif = oriented(6)
    exif[0x010E] = "a description"
    exif[0x011A] = 72.5
    return encoded(picture(), kind, exif=exif, **options)


WHOLE = {
    "JPEG": [with_exif("JPEG"), with_exif("JPEG", progressive=True), encoded(picture().convert("CMYK"), "JPEG")],
    "PNG": [with_exif("PNG"), encoded(picture().convert("P")), encoded(picture().convert("LA"))],
    "GIF": [encoded(picture(), "GIF"), encoded(picture(), "GIF", save_all=True, append_images=[NOISE])],
    "BMP": [encoded(picture(), "BMP"), encoded(picture().convert("P"), "BMP")],
    "WEBP": [with_exif("WEBP"), with_exif("WEBP", lossless=True)],
}


@pytest.mark.reliability(
    "photographs", "damaged in any way (Hypothesis)", "read as RGB, or rejected with a reason of one line; nothing else"
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WHOLE)
@given(data=strategies.data())
def test_damaged_bytes_give_a_photograph_or_a_reason(kind: str, data: strategies.DataObject) -> None:
    """Whatever befell a file, it is read as RGB or refused in words of one line: nothing else can happen."""
    reason = outcome(data.draw(damaged(*WHOLE[kind])))
    assert 0 < len(reason) < 120
    assert reason.isprintable()


THIN = pytest.mark.reliability(
    "photographs", "1 by 1, or 60,000 by 1 pixels", "taken, and brought to the network's square like any other"
)


@THIN
@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("resizing", get_args(Resizing))
def test_the_smallest_and_thinnest_photographs_are_still_seen(resizing: Resizing, size: tuple[int, int]) -> None:
    """Something of a photograph is in the square, however thin it is."""
    image = decoding.decode(encoded(Image.new("RGB", size, RED)))
    assert image.size == size
    assert (decoding.resize(image, size=32, resizing=resizing) == RED).all(axis=-1).any()


@pytest.mark.parametrize("resizing", ["squash", "crop", "fit"])
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (7, 7), (1, 500), (500, 1), (1, 1)])
def test_resized_photographs_are_squares(resizing: Resizing, size: tuple[int, int]) -> None:
    """Every photograph, however long and thin, has the shape the network takes."""
    pixels = decoding.resize(picture(*size), size=32, resizing=resizing)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def striped() -> Image.Image:
    """Twice as wide as high: a red, two green and a blue quarter, from left to right."""
    quarters = np.array([[RED, GREEN, GREEN, BLUE]], np.uint8)
    return Image.fromarray(quarters.repeat(20, axis=1).repeat(40, axis=0))


def test_squash_shows_all_and_changes_the_proportions() -> None:
    """The left and right edges are still there."""
    pixels = decoding.resize(striped(), size=32, resizing="squash")
    assert [tuple(pixels[16, x]) for x in (0, 16, 31)] == [RED, GREEN, BLUE]


def test_crop_shows_the_middle_square() -> None:
    """The outer quarters are gone but for a shade at the very edge; the middle fills the square."""
    pixels = decoding.resize(striped(), size=32, resizing="crop")
    assert (pixels[:, 1:-1] == GREEN).all()
    assert pixels[:, :, 1].min() > 200


def test_fit_shows_all_on_a_neutral_ground() -> None:
    """The photograph keeps its proportions; above and below is the mean colour of ImageNet."""
    pixels = decoding.resize(striped(), size=32, resizing="fit")
    assert [tuple(pixels[16, x]) for x in (0, 16, 31)] == [RED, GREEN, BLUE]
    assert (pixels[:8] == decoding.BACKGROUND).all()
    assert (pixels[-8:] == decoding.BACKGROUND).all()


def test_frames_tell_which_part_of_a_photograph_fills_the_square() -> None:
    """Left, top, right, bottom, in the photograph's own pixels."""
    assert decoding.crop_box(400, 300, "squash") == (0, 0, 400, 300)
    assert decoding.crop_box(400, 300, "crop") == (50, 0, 350, 300)
    assert decoding.crop_box(400, 300, "fit") == (0, -50, 400, 350)
    assert decoding.crop_box(300, 400, "crop") == (0, 50, 300, 350)
