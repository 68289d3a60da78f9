"""Decoding: photographs from bytes to pixels, and resizing to the square that the network takes."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer.images import manifest
from transfer.runtime.errors import DataError, rerun_hint

Pixels = NDArray[np.uint8]
Resizing = Literal["squash", "crop", "fit"]
MAX_SIZE = 1024  # edge of the square that a network takes, pixels
Box = tuple[float, float, float, float]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_BYTES = 64 << 20  # of a file, which is read into memory; files of phones have a third of that at most
MAX_PIXELS = 89_478_485  # the limit above which Pillow warns of a decompression bomb
MAX_SCANS = 100  # of a JPEG; ten are usual, and each one takes time over all pixels however few its bytes
BACKGROUND = (124, 117, 104)  # ImageNet's mean colour, which VGG16's preprocessing turns into zero

_JPEG_START = b"\xff\xd8"
_END_MARKER, _SCAN_MARKER = 0xD9, 0xDA
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # without the markers that occur within compressed data

_TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePhoto(Exception):
    """The bytes cannot be decoded as a photograph; the text is the reason."""


def decode(data: bytes) -> Image.Image:
    """Decode a photograph completely, as 8-bit RGB, rotated by its EXIF orientation.

    Transparent pixels are blended with white, 16-bit grey is scaled to 8 bits, and an animation's first frame is used.

    Raises:
        UnreadablePhoto: the bytes are empty, truncated, damaged, in no known format, larger than `MAX_PIXELS` once
            decoded, or have more than `MAX_SCANS` scans.
    """
    if not data:
        raise UnreadablePhoto("empty file")
    with _as_unreadable():
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadablePhoto(f"more than {MAX_PIXELS:,} pixels")
        if data.startswith(_JPEG_START) and _count_scans(data) > MAX_SCANS:
            raise UnreadablePhoto(f"more than {MAX_SCANS} scans")
        image.load()
        image = _upright(image)  # reusing the name frees the first image before `_rgb` makes a third
        return _rgb(image)


def read_photo(path: Path, *, sha256: str) -> Image.Image:
    """Read a photograph that `subsample` wrote, after checking its SHA-256; decode it as `decode` does.

    `subsample` writes only photographs that can be decoded, so one with the right SHA-256 can be.

    Raises:
        DataError: the file has another SHA-256.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{path} must be the photograph that the manifest describes. Received: {len(data):,} bytes with another "
            f"sha256. {rerun_hint('subsample')}"
        )
    return decode(data)


def read_square(folder: Path, photograph: manifest.Entry, *, size: int, resizing: Resizing) -> Pixels:
    """Read a photograph of the manifest, resized to a square.

    Args:
        folder: the folder that the manifest's paths are relative to.
        photograph: the manifest's entry.
        size: edge of the square, in pixels.
        resizing: as in `resize`.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.

    Raises:
        DataError: the file has another SHA-256 than the manifest lists.
    """
    image = read_photo(folder / photograph.path, sha256=photograph.sha256)
    return resize(image, size=size, resizing=resizing)


def resize(image: Image.Image, *, size: int, resizing: Resizing) -> Pixels:
    """Resize a photograph to `size` x `size` pixels.

    Args:
        image: 8-bit RGB.
        size: edge of the square, in pixels.
        resizing: "squash" changes the proportions; "crop" keeps them and uses the middle square;
            "fit" keeps them and fills the rest with `BACKGROUND`.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.
    """
    if resizing == "fit":
        return np.asarray(_fit(image, size))
    box = crop_box(image.width, image.height, resizing)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def crop_box(width: int, height: int, resizing: Resizing) -> Box:
    """Return the part of a photograph that fills the square: left, top, right and bottom in its pixels.

    With "fit" the box reaches beyond the photograph.
    """
    if resizing == "squash":
        return 0.0, 0.0, float(width), float(height)
    edge = min(width, height) if resizing == "crop" else max(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Centre the complete photograph on a square; it stays at least one pixel wide and high."""
    width, height = (max(1, round(edge / max(image.size) * size)) for edge in image.size)
    square = Image.new("RGB", (size, size), BACKGROUND)
    corner = (round((size - width) / 2), round((size - height) / 2))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), corner)
    return square


def _count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG, which are as many as the file claims and each take time to decode."""
    count, position = 0, len(_JPEG_START)
    while (segment := _SEGMENT.search(jpeg, position)) and jpeg[segment.end() - 1] != _END_MARKER:
        count += jpeg[segment.end() - 1] == _SCAN_MARKER
        position = segment.end() + int.from_bytes(jpeg[segment.end() : segment.end() + 2], "big")
    return count


def _upright(image: Image.Image) -> Image.Image:
    """Rotate by the EXIF orientation; a photograph with damaged EXIF stays as it is stored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser raises nearly anything on damaged bytes
        return image
    return image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        transparent = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), transparent).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Raise `UnreadablePhoto` instead of any exception that Pillow raises."""
    try:
        yield
    except UnreadablePhoto:
        raise
    except Image.DecompressionBombError:
        raise UnreadablePhoto(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise UnreadablePhoto(f"not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UnreadablePhoto(f"cut short or damaged ({reason})") from None
