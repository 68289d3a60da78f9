"""Formats: the kinds of files that are read as photographs, and limits of the work that one file may cause."""

import io
import re
import struct
from collections.abc import Iterator
from functools import cache

from PIL import Image, features

MAX_PIXELS = 89_478_485  # the limit above which Pillow warns of a decompression bomb
MAX_MEMORY = 900_000_000  # bytes that decoding one photograph may take, by estimate
MAX_SLOW_PIXELS = 1_000_000  # of encodings that Pillow decodes in Python, as BMP's run lengths: a second and less
MAX_SCANS = 100  # of a JPEG; ten are usual, and each one takes time over all pixels however few its bytes
MAX_PARTS = 200_000  # that a file is read in, such as chunks, segments and blocks; a large PNG has some 30,000
MAX_TIFF_VALUES = 200_000  # of a TIFF's tag; a photograph whose every row is a strip has some 10,000

# Bytes per pixel that decoding takes at most, measured with the decoded image and a converted copy of it. Decoders of
# WebP keep several frames, those of AVIF and HEIF planes of 16 bits.
_BYTES_PER_PIXEL = {"WEBP": 16, "AVIF": 18, "HEIF": 18}
_DECODED = 4  # bytes per pixel of an image in memory

_JPEG_START = b"\xff\xd8"
_END_MARKER, _SCAN_MARKER = 0xD9, 0xDA
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # without the markers that occur within compressed data

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_PNG_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may say how to rotate
_MAX_METADATA = 1 << 20  # bytes of a chunk; Pillow refuses a text that is larger once unpacked

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_TIFF_BYTE_TYPES = frozenset({1, 2, 6, 7})


class UnreadablePhoto(Exception):
    """The bytes cannot be decoded as a photograph; the text is the reason."""


class _BoundedFile(io.BytesIO):
    """A file that can be read in at most `MAX_PARTS` parts: Pillow reads most formats part by part, in Python."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._parts = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise UnreadablePhoto(f"more than {MAX_PARTS:,} parts")
        return super().read(size)


@cache
def names() -> tuple[str, ...]:
    """Return Pillow's names of the formats that this installation reads; HEIF needs the package pillow-heif."""
    optional = {"AVIF": features.check("avif"), "HEIF": _registers_heif()}
    return ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", *(name for name, is_read in optional.items() if is_read))


def open_photo(data: bytes) -> Image.Image:
    """Open a photograph without decoding its pixels, after checks that decoding takes a sensible time and memory.

    Raises:
        UnreadablePhoto: a limit of this module is exceeded, or the format needs a package that is not installed.
        Exception: nearly anything that Pillow raises on damaged bytes.
    """
    if _is_heic(data) and "HEIF" not in names():
        raise UnreadablePhoto("HEIC, for which the package pillow-heif must be installed")
    _check_structure(data)
    image: Image.Image = Image.open(_BoundedFile(_without_metadata(data)), formats=names())
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UnreadablePhoto(f"more than {MAX_PIXELS:,} pixels")
    most = min(MAX_PIXELS, MAX_MEMORY // _bytes_per_pixel(image))
    if pixels > most:
        raise UnreadablePhoto(f"more than {most:,} pixels as {image.format}, whose decoding takes much memory")
    slow = [tile.codec_name for tile in getattr(image, "tile", []) if tile.codec_name in Image.DECODERS]
    if slow and pixels > MAX_SLOW_PIXELS:
        raise UnreadablePhoto(f"more than {MAX_SLOW_PIXELS:,} pixels in the slow encoding {slow[0]}")
    return image


def _bytes_per_pixel(image: Image.Image) -> int:
    """Return how many bytes per pixel decoding takes, at most; a JPEG of several scans has two more of each colour."""
    if image.format in {"JPEG", "MPO"}:
        return _DECODED + 2 * len(image.getbands())
    return _BYTES_PER_PIXEL.get(image.format or "", 2 * _DECODED)


def _registers_heif() -> bool:
    """Let Pillow read HEIF if the optional package for it is installed; return whether it is."""
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - an optional package
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_heic(data: bytes) -> bool:
    """Return whether a file says that it is a photograph in HEIC, in its first box of at most 64 brands."""
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 8 + 4 * 64)]
    return data[4:8] == b"ftyp" and any(brands[start : start + 4] in _HEIC_BRANDS for start in range(0, len(brands), 4))


def _check_structure(data: bytes) -> None:
    """Check the numbers in a file's headers that multiply work before or while it is decoded."""
    if data.startswith(_JPEG_START) and _count_scans(data) > MAX_SCANS:
        raise UnreadablePhoto(f"more than {MAX_SCANS} scans")
    if data[:4] in _TIFF_STARTS and _count_tiff_values(data) > MAX_TIFF_VALUES:
        raise UnreadablePhoto(f"more than {MAX_TIFF_VALUES:,} values in a TIFF tag")


def _count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG, which are as many as the file claims and each take time to decode."""
    count, parts, position = 0, 0, len(_JPEG_START)
    while (segment := _SEGMENT.search(jpeg, position)) and jpeg[segment.end() - 1] != _END_MARKER:
        parts += 1
        if parts > MAX_PARTS:
            raise UnreadablePhoto(f"more than {MAX_PARTS:,} parts")
        count += jpeg[segment.end() - 1] == _SCAN_MARKER
        position = segment.end() + int.from_bytes(jpeg[segment.end() : segment.end() + 2], "big")
    return count


def _count_tiff_values(tiff: bytes) -> int:
    """Return the largest number of values in a tag of a TIFF's first page; bytes and text do not count.

    Pillow makes an object of each value, and of each strip of pixels, when it opens the file.
    """
    order = _TIFF_STARTS[tiff[:4]]
    header, count, entry = ("8xQ", "Q", "HHQ8x") if b"+" in tiff[:4] else ("4xL", "H", "HHL4x")
    try:
        [start] = struct.unpack_from(order + header, tiff)
        [entries] = struct.unpack_from(order + count, tiff, start)
    except struct.error:
        return 0  # damaged, which Pillow reports
    start += struct.calcsize(order + count)
    end = start + min(entries, MAX_PARTS) * struct.calcsize(order + entry)
    directory = tiff[start:end]
    complete = directory[: len(directory) - len(directory) % struct.calcsize(order + entry)]
    tags = struct.iter_unpack(order + entry, complete)
    return max((number for _, kind, number in tags if kind not in _TIFF_BYTE_TYPES), default=0)


def _without_metadata(data: bytes) -> bytes:
    """Return a PNG without texts and colour profiles, whose size Pillow limits; other files are returned as they are.

    Texts that may contain the orientation stay, unless they are large.
    """
    if not data.startswith(_PNG_START):
        return data
    metadata = list(_png_metadata(data))
    ends = [0, *(end for _, end in metadata)]
    starts = [*(start for start, _ in metadata), len(data)]
    return b"".join(data[end:start] for end, start in zip(ends, starts, strict=True)) if metadata else data


def _png_metadata(png: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each chunk of a PNG that is not needed to show it."""
    start = len(_PNG_START)
    for _ in range(MAX_PARTS // 4):  # Pillow reads a chunk in four parts and more, and no further
        length, kind = int.from_bytes(png[start : start + 4], "big"), png[start + 4 : start + 8]
        end = start + 12 + length
        if end > len(png) or kind == b"IEND":
            return
        is_needed = length <= _MAX_METADATA and png.startswith(_PNG_ORIENTATION, start + 8)
        if kind in _PNG_METADATA and not is_needed:
            yield start, end
        start = end
