"""Photographs: bytes read into pixels, and pixels brought to the size the network takes."""

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

from transfer.runtime.errors import DataError, rerun_hint

Pixels = NDArray[np.uint8]
Resizing = Literal["squash", "crop", "fit"]
MAX_SIZE = 1024  # pixels an edge of the square that a network takes
Box = tuple[float, float, float, float]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_BYTES = 64 << 20  # of a photograph's file, which is read whole; those of phones have a third of that at most
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
MAX_SCANS = 100  # of a JPEG, over its whole picture; ten are usual, and each takes time however few its bytes
BACKGROUND = (124, 117, 104)  # ImageNet's mean colour: what VGG16's preprocessing turns into zero

_JPEG = b"\xff\xd8"  # how one begins
_END, _SCAN = 0xD9, 0xDA
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # not what may stand within compressed data

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePhoto(Exception):
    """The bytes are no whole photograph; the text is the reason."""


def decode(data: bytes) -> Image.Image:
    """Decode a photograph fully, turned upright by its EXIF orientation, as 8-bit RGB.

    Transparent parts are laid on white; 16-bit grey is scaled to 8 bits; of an animation, the first picture.

    Raises:
        UnreadablePhoto: the bytes are empty, of no known format, cut short, damaged, larger than `MAX_PIXELS` once
            decoded, or of more than `MAX_SCANS`.
    """
    if not data:
        raise UnreadablePhoto("empty file")
    with _refusals():
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadablePhoto(f"more than {MAX_PIXELS:,} pixels")
        if data.startswith(_JPEG) and _scans(data) > MAX_SCANS:
            raise UnreadablePhoto(f"more than {MAX_SCANS} scans")
        image.load()
        image = _upright(image)  # under the same name, so that no third copy of the largest is held
        return _rgb(image)


def read_photo(path: Path, *, sha256: str) -> Image.Image:
    """Read a photograph that `subsample` kept, if it still is the one that the manifest describes.

    `subsample` keeps what can be decoded, so its sha256 tells that this can.

    Raises:
        DataError: its bytes have another sha256.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{path} must be the photograph that the manifest describes. Received: {len(data):,} bytes with another "
            f"sha256. {rerun_hint('subsample')}"
        )
    return decode(data)


def resize(image: Image.Image, *, size: int, resizing: Resizing) -> Pixels:
    """Bring a photograph to `size` x `size` pixels.

    Args:
        image: 8-bit RGB.
        size: edge of the square, in pixels.
        resizing: "squash" changes the proportions; "crop" keeps them and takes the middle square;
            "fit" keeps them and fills the rest with `BACKGROUND`.

    Returns:
        Array of shape (size, size, 3), RGB, 0 to 255.
    """
    if resizing == "fit":
        return np.asarray(_fitted(image, size))
    box = crop_box(image.width, image.height, resizing)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def crop_box(width: int, height: int, resizing: Resizing) -> Box:
    """The part of a photograph that fills the square: left, top, right, bottom in its pixels.

    With "fit" the frame reaches beyond the photograph.
    """
    if resizing == "squash":
        return 0.0, 0.0, float(width), float(height)
    edge = min(width, height) if resizing == "crop" else max(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The whole photograph in the middle of a square; at least a pixel wide and high, however long and thin."""
    width, height = (max(1, round(edge / max(image.size) * size)) for edge in image.size)
    square = Image.new("RGB", (size, size), BACKGROUND)
    corner = (round((size - width) / 2), round((size - height) / 2))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), corner)
    return square


def _scans(jpeg: bytes) -> int:
    """How often a JPEG goes over its picture: the decoder does so as often as a file says."""
    count, place = 0, len(_JPEG)
    while (segment := _SEGMENT.search(jpeg, place)) and jpeg[segment.end() - 1] != _END:
        count += jpeg[segment.end() - 1] == _SCAN
        place = segment.end() + int.from_bytes(jpeg[segment.end() : segment.end() + 2], "big")
    return count


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation; a photograph whose EXIF is damaged is whole and taken as it lies."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser raises nearly anything on damaged bytes
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        shown = image if image.mode == "RGBA" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), shown).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn all the ways in which Pillow refuses bytes into one."""
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
