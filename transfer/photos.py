"""Photographs: bytes read into pixels, and pixels brought to the size the network takes."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from transfer.errors import DataError, remake

Pixels = NDArray[np.uint8]
Resizing = Literal["squash", "crop", "fit"]
MAX_SIZE = 1024  # pixels an edge of the square that a network takes
Box = tuple[float, float, float, float]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
BACKGROUND = (124, 117, 104)  # ImageNet's mean colour: what VGG16's preprocessing turns into zero

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


def read(data: bytes) -> Image.Image:
    """Decode a photograph fully, turned upright by its EXIF orientation, as 8-bit RGB.

    Transparent parts are laid on white; 16-bit grey is scaled to 8 bits; of an animation, the first picture.

    Raises:
        UnreadablePhoto: the bytes are empty, of no known format, cut short, damaged, or larger than
            `MAX_PIXELS` once decoded.
    """
    if not data:
        raise UnreadablePhoto("empty file")
    with _refusals():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadablePhoto(f"more than {MAX_PIXELS:,} pixels")
        image.load()
        return _rgb(_upright(image))


def read_kept(path: Path, *, sha256: str) -> Image.Image:
    """Read a photograph that `subsample` kept, if it still is the one that the manifest describes.

    `subsample` keeps what can be decoded, so its sha256 tells that this can.

    Raises:
        DataError: its bytes have another sha256.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{path} must be the photograph that the manifest describes. Received: {len(data):,} bytes with another "
            f"sha256. {remake('subsample')}"
        )
    return read(data)


def resized(image: Image.Image, *, size: int, resizing: Resizing) -> Pixels:
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
        return np.asarray(ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=BACKGROUND))
    box = frame(image.width, image.height, resizing)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def frame(width: int, height: int, resizing: Resizing) -> Box:
    """The part of a photograph that fills the square: left, top, right, bottom in its pixels.

    With "fit" the frame reaches beyond the photograph.
    """
    if resizing == "squash":
        return 0.0, 0.0, float(width), float(height)
    edge = min(width, height) if resizing == "crop" else max(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation; a photograph whose EXIF is damaged is whole and taken as it lies."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser raises nearly anything on damaged bytes
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        scaled = np.asarray(image, np.float64) / (257 if image.mode.startswith("I") else 1)
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
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
