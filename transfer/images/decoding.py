"""Decoding: photographs from bytes to pixels, and resizing to the square that the network takes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from transfer.images import formats, manifest
from transfer.images.formats import MAX_PIXELS, UnreadablePhoto
from transfer.runtime.errors import DataError, rerun_hint

Pixels = NDArray[np.uint8]
Resizing = Literal["squash", "crop", "fit"]
MAX_SIZE = 1024  # edge of the square that a network takes, pixels
Box = tuple[float, float, float, float]

MAX_BYTES = 64 << 20  # of a file, which is read into memory; files of phones have a third of that at most
BACKGROUND = (124, 117, 104)  # ImageNet's mean colour, which VGG16's preprocessing turns into zero

_BAND_PIXELS = 1 << 20  # pixels of a photograph that are blended at once
# Modes of Pillow whose values have no defined range, or which it does not convert to RGB.
_NO_RGB = {"I": "grey values of 32 bits", "F": "floating-point values", "LAB": "CIELAB colours"}

_TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes) -> Image.Image:
    """Decode a photograph completely, as 8-bit RGB, rotated by its EXIF orientation.

    Transparent pixels are blended with white, 16-bit grey is scaled to 8 bits, and the first page, or the first frame
    of an animation, is used. At most two copies of the pixels are in memory at a time.

    Raises:
        UnreadablePhoto: the bytes are empty, truncated, damaged or in no known format, or exceed a limit of `formats`.
    """
    if not data:
        raise UnreadablePhoto("empty file")
    with _as_unreadable():
        image = formats.open_photo(data)
        _scale_transparency(image)
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)  # reusing the name frees each image before the next but one is made
        return image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image


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


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; a photograph with damaged EXIF counts as upright."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - Pillow's EXIF parser raises nearly anything on damaged bytes
        return 1
    return orientation


def _scale_transparency(image: Image.Image) -> None:
    """Scale the transparent colour of a 16-bit RGB PNG to 8 bits, as Pillow scales the pixels alone."""
    transparency = image.info.get("transparency")
    is_16_bit = any("16B" in str(tile.args) for tile in getattr(image, "tile", []))
    if image.mode == "RGB" and is_16_bit and isinstance(transparency, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparency)


def _check_mode(image: Image.Image) -> None:
    """Check that the pixels have a defined range, from black to white."""
    kind = _NO_RGB.get(image.mode)
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    depth, meaning = tags.get(258, (16,)), tags.get(262, 1)
    if image.mode.startswith("I;16") and (depth, meaning) != ((16,), 1):
        kind = f"grey values of {depth[0]} bits, from white to black" if meaning == 0 else f"values of {depth[0]} bits"
    if kind:
        raise UnreadablePhoto(f"{kind}, which cannot be converted to 8-bit RGB")


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB."""
    _check_mode(image)
    if image.mode.startswith("I;16"):
        return _in_bands(image, _from_16_bit)
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    return image.convert("RGB")


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a photograph a few rows at a time, so that intermediate images take little memory."""
    converted = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(convert(band), (0, top))
    return converted


def _from_16_bit(image: Image.Image) -> Image.Image:
    levels, transparent = np.asarray(image), image.info.get("transparency")
    grey = (levels >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    transparent = image if image.mode == "RGBA" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), transparent).convert("RGB")


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
        raise UnreadablePhoto(f"not one of {', '.join(formats.names())}") from None
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UnreadablePhoto(f"cut short or damaged ({reason})") from None
