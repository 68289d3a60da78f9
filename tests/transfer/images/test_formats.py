import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from transfer.images import decoding, formats
from transfer.images.formats import UnreadablePhoto

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


def largest_difference(first: Image.Image, second: Image.Image) -> int:
    """Return the largest difference of two pictures, over pixels and channels."""
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


@pytest.mark.skipif("HEIF" in formats.names(), reason="pillow-heif is installed")
def test_heic_without_its_package_is_unreadable() -> None:
    """The reason names the package, whichever of its brands says that a file is HEIC."""
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        data = struct.pack(">L", 8 + len(brands)) + b"ftyp" + brands + bytes(100)
        with pytest.raises(UnreadablePhoto, match=r"^HEIC, for which the package pillow-heif must be installed$"):
            decoding.decode(data)


@pytest.mark.reliability(
    "photographs", "a PNG with megabytes of text or colour profile", "decoded; texts and colour profiles are not read"
)
def test_a_png_with_large_metadata_is_decoded() -> None:
    """Texts and a colour profile over Pillow's limit of 1 MiB do not make a PNG unreadable, wherever they stand."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat " * 500_000)
    info.add_text("compressed", "a cat " * 500_000, zip=True)
    info.add_itxt("international", "a cat " * 500_000, zip=True)
    profile = np.random.default_rng(0).bytes(3_000_000)
    data = encode(picture(), pnginfo=info, icc_profile=profile)
    assert largest_difference(decoding.decode(data), picture()) == 0
    text_at_the_end = data[:-12] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))) + data[-12:]
    assert largest_difference(decoding.decode(text_at_the_end), picture()) == 0


def test_an_orientation_in_the_text_of_a_png_is_used() -> None:
    """A PNG with large texts is rotated by the orientation in its XMP packet."""
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat " * 500_000)
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    assert decoding.decode(encode(picture(), pnginfo=info)).size == (24, 40)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of few bytes whose header announces a large picture."""
    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def run_length_bmp(width: int, height: int) -> bytes:
    """Return a BMP of 2 kB in run-length encoding, whose rows end after a pixel."""
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    pixels = b"\1\1\0\0" * min(height, 250) + b"\0\1"
    start = 14 + len(header) + 1024
    return struct.pack("<2sLHHL", b"BM", start + len(pixels), 0, 0, start) + header + bytes(1024) + pixels


def tiff(tag: int, count: int) -> bytes:
    """Return a TIFF with a tag of many values."""
    entries = [(256, 3, 1, 1), (257, 3, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (tag, 4, count, 100)]
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(8 + 4 * count)


BOMB = pytest.mark.reliability(
    "photographs",
    "a decompression bomb: few bytes, many pixels or many scans",
    "rejected as `unreadable` before it is decoded",
)


@BOMB
@pytest.mark.parametrize(("width", "height"), [(9_460, 9_460), (20_000, 20_000), (2**31 - 1, 1), (10**6, 10**6)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_photograph_with_too_many_pixels_is_unreadable(width: int, height: int) -> None:
    """A file of a hundred bytes cannot make decoding exhaust the memory."""
    with pytest.raises(UnreadablePhoto, match="more than 89,478,485 pixels"):
        decoding.decode(bomb(width, height))


@BOMB
def test_a_jpeg_with_too_many_scans_is_unreadable() -> None:
    """A small file cannot occupy a core for hours. Scans of an embedded preview are not counted."""
    complete = encode(picture(), "JPEG", progressive=True)
    last = complete[complete.rindex(b"\xff\xda") : -2]
    assert decoding.decode(complete[:-2] + last * 50 + complete[-2:]).size == (40, 24)
    with pytest.raises(UnreadablePhoto, match=r"^more than 100 scans$"):
        decoding.decode(complete[:-2] + last * 100 + complete[-2:])
    preview = b"\xff\xe1\xff\xf0" + b"\xff\xda" * 0x7FF7
    assert decoding.decode(complete[:2] + preview + complete[2:]).size == (40, 24)


@BOMB
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (run_length_bmp(9_000, 9_000), "more than 1,000,000 pixels in the slow encoding bmp_rle"),
        (run_length_bmp(900, 900)[:-2] + b"\0\2\0\0" * 600_000, "more than 200,000 parts"),
        (b"\xff\xd8" + b"\xff" * 10_000_000, "more than 200,000 parts"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000, "more than 200,000 parts"),
        (encode(picture(), "JPEG")[:-2] + b"\xff\xfe\0\2" * 2_000_000 + b"\xff\xd9", "more than 200,000 parts"),
        (encode(picture())[:33] + chunk(b"IDAT", b"") * 2_000_000, "more than 200,000 parts"),
        (b"GIF89a" + bytes(7) + b"!\xfe" + b"\1x" * 5_000_000, "more than 200,000 parts"),
        (tiff(273, 5_000_000), "more than 200,000 values in a TIFF tag"),
    ],
    ids=["RLE pixels", "RLE runs", "JPEG padding", "JPEG header", "JPEG segments", "PNG chunks", "GIF blocks", "TIFF"],
)
def test_work_out_of_proportion_is_refused_at_once(data: bytes, reason: str) -> None:
    """A file that would occupy a core for long, in loops that Pillow runs in Python, is refused within seconds."""
    start = time.process_time()
    with pytest.raises(UnreadablePhoto, match=f"^{reason}$"):
        decoding.decode(data)
    assert time.process_time() - start < 4  # less than one on a machine that does nothing else


@pytest.mark.reliability(
    "photographs", "a photograph whose decoder would take a gigabyte", "rejected as `unreadable` before it is decoded"
)
def test_a_photograph_that_takes_too_much_memory_is_unreadable() -> None:
    """Decoders of WebP hold several copies; the limit of pixels is lower for such formats."""
    file = io.BytesIO()
    Image.new("RGB", (7600, 7600)).save(file, "WEBP", quality=1, method=0)
    with pytest.raises(UnreadablePhoto, match=r"^more than 56,250,000 pixels as WEBP, whose decoding takes much"):
        formats.open_photo(file.getvalue())


def test_a_bmp_in_run_length_encoding_is_decoded() -> None:
    """One of sensible size is read, though Pillow decodes it slowly."""
    assert decoding.decode(run_length_bmp(4_000, 249)).size == (4_000, 249)


@BOMB
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_of_many_frames_are_decoded_quickly(kind: str) -> None:
    """The time does not grow with the number of frames, as only the first is decoded."""
    frames = [Image.new("RGB", (16, 16), (number, 255 - number, 0)) for number in range(250)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    start = time.process_time()
    assert decoding.decode(data).size == (16, 16)
    assert time.process_time() - start < 0.5
