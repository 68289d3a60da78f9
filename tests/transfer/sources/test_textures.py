import random

import numpy as np
import pytest

from transfer.sources import textures

SIZE = 32


def sources(seed: int) -> tuple[random.Random, np.random.Generator]:
    """Return the two sources of chance of a picture."""
    return random.Random(seed), np.random.default_rng(seed)  # noqa: S311 - for pictures, not for secrets


def test_colours_are_varied_and_mixed_within_their_range() -> None:
    """A varied colour is near the given one and within 0 to 255; a mixture lies between two colours."""
    rng, _ = sources(0)
    for _ in range(100):
        red, green, blue = textures.varied(rng, (0, 100, 255), by=20)
        assert (0 <= red <= 20, 80 <= green <= 120, 235 <= blue <= 255) == (True, True, True)
    assert textures.mixed((0, 100, 200), (100, 0, 200), 0.25) == (25, 75, 200)


@pytest.mark.parametrize("size", [16, SIZE])
def test_textures_have_a_colour_for_each_pixel(size: int) -> None:
    """Backgrounds and fur have the given size, differ by seed, and are the same again for the same seed."""
    x, y = (axis.astype(np.float32) / size for axis in np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2])

    def drawn(seed: int) -> list[np.ndarray]:
        rng, generator = sources(seed)
        share = textures.markings(rng, generator, x, y)
        assert (share.min() >= 0, share.max() <= 1) == (True, True)
        coat = textures.fur(generator, textures.FUR[:2], share)
        return [textures.background(rng, generator, size), coat]

    for seed in range(20):
        for first, again, other in zip(drawn(seed), drawn(seed), drawn(seed + 20), strict=True):
            assert first.shape == (size, size, 3)
            assert first.dtype == np.float32
            assert np.array_equal(first, again)
            assert not np.array_equal(first, other)


def test_noise_is_smooth() -> None:
    """Few values per edge make noise whose neighbours differ less than those of many values."""

    def steps(cells: int) -> float:
        field = textures.noise(np.random.default_rng(0), SIZE, rows=cells, columns=cells)
        assert 0.3 < field.std() < 1.5
        return float(np.abs(np.diff(field)).mean())

    assert 3 * steps(4) < steps(SIZE)
