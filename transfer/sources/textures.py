"""Textures of synthetic pictures: backgrounds and fur, as arrays of colours of shape (size, size, 3)."""

import math
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.sources.painter import Colour, Grid

Pixels = NDArray[np.float32]  # RGB from 0 to 255

FUR = (  # black, greys, white, creams, browns, reds
    *((38, 36, 40), (74, 72, 76), (112, 120, 136), (150, 152, 156), (190, 190, 192), (238, 235, 230)),
    *((232, 210, 172), (214, 162, 102), (196, 118, 60), (142, 90, 54), (96, 64, 46), (66, 48, 40)),
)
_DARKEST, _BRIGHTEST = 70, 220  # values of a background's channels
_DIFFERENCE = 50  # at most, of a channel between the two colours of a background


def varied(rng: random.Random, colour: Colour, *, by: int) -> Colour:
    """Return a colour whose channels differ by at most `by` from the given one's."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-by, by))) for channel in colour)
    return red, green, blue


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Return the mixture of two colours with a share of the second, from 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def noise(generator: np.random.Generator, size: int, *, rows: int, columns: int) -> Grid:
    """Return smooth noise of standard deviation about 1, with that number of independent values per edge."""
    coarse = Image.fromarray(generator.standard_normal((rows, columns), np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def blended(first: Colour, second: Colour, share: Grid) -> Pixels:
    """Return pixels that mix two colours, with the share of the second at each pixel."""
    start, end = (np.array(colour, np.float32) for colour in (first, second))
    return start + (end - start) * share[..., None].astype(np.float32)


def background(rng: random.Random, generator: np.random.Generator, size: int) -> Pixels:
    """Return a meadow, a plain or patterned wall, or light out of focus."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size)
    angle = rng.uniform(0, math.tau)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    first = _pastel(rng)
    second = varied(rng, first, by=_DIFFERENCE)
    match rng.choice(("meadow", "floor", "gradient", "stripes", "dots", "lights")):
        case "meadow":
            first, second = varied(rng, (160, 195, 230), by=30), varied(rng, (105, 150, 80), by=30)
            hills = rng.uniform(0.45, 0.75) + 0.05 * noise(generator, size, rows=1, columns=5)
            share = np.clip((rows - hills) * size, 0, 1)
        case "floor":
            share = np.clip((rows - rng.uniform(0.6, 0.85)) * size, 0, 1)
        case "gradient":
            share = along
        case "stripes":
            share = 0.5 + 0.5 * np.sin(rng.uniform(15, 40) * along)
        case "dots":
            frequency = rng.uniform(15, 30)
            share = np.clip(8 * np.sin(frequency * along) * np.sin(frequency * across) - 3, 0, 1)
        case _:
            share = np.clip(0.5 + 0.5 * noise(generator, size, rows=5, columns=5), 0, 1)
    return blended(first, second, share)


def markings(rng: random.Random, generator: np.random.Generator, x: Grid, y: Grid) -> Grid:
    """Return the share of fur's second colour at each pixel, from 0 to 1, for the animal's coordinates there."""
    uneven = noise(generator, len(x), rows=7, columns=7)
    kinds: tuple[Callable[[], Grid], ...] = (
        lambda: np.zeros_like(x),
        lambda: np.sin(rng.uniform(9, 13) * np.hypot(0.8 * x, y - 1.2) + uneven) - 0.2,  # tabby
        lambda: uneven - rng.uniform(0, 0.5),  # patches
        lambda: np.sin(9 * x + uneven) * np.sin(9 * y + uneven) - 0.4,  # spots
        lambda: 0.12 + 0.45 * np.clip(y + 0.35, 0, 1) - np.abs(x + 0.1 * uneven),  # blaze
        lambda: 0.6 - np.hypot(x, 0.9 * (y - 0.35)) + 0.1 * uneven,  # mask
    )
    share: Grid = np.clip(8 * rng.choice((kinds[0], *kinds))(), 0, 1)
    return share


def fur(generator: np.random.Generator, colours: tuple[Colour, Colour], share: Grid) -> Pixels:
    """Return fur in two colours, with short hairs."""
    size = len(share)
    hairs = noise(generator, size, rows=max(2, size // 5), columns=max(2, size // 2))
    return blended(*colours, share) + 7 * hairs[..., None]


def _pastel(rng: random.Random) -> Colour:
    red, green, blue = (rng.randint(_DARKEST, _BRIGHTEST) for _ in range(3))
    return red, green, blue
