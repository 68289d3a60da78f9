import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from transfer.features import extraction, store
from transfer.images import decoding
from transfer.network import weights

SIZE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (30, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def compute() -> extraction.Network:
    """Return a network for small pictures, with random weights."""
    return extraction.build_network(weights.random(seed=1), image_size=SIZE, boundary="block4_pool")


def pixels_of(views: Sequence[int]) -> decoding.Pixels:
    """Return the pixels of some views."""
    return PIXELS[list(views)]


def test_every_view_is_computed_and_stored_once(compute: extraction.Network) -> None:
    """Each view is stored and counted once, with the shapes of the boundary and of the end of the base."""
    stored: dict[int, store.Row] = {}
    counts = list(extraction.extract(range(30), pixels=pixels_of, compute=compute, put=stored.__setitem__))
    assert sum(counts) == 30
    assert sorted(stored) == list(range(30))
    assert {(row.boundary.shape, row.pooled.shape) for row in stored.values()} == {((2, 2, 512), (1, 1, 512))}


def test_a_row_does_not_depend_on_its_batch(compute: extraction.Network) -> None:
    """A photograph gives the same bits alone, in batches of any size, and at any position."""
    alone = compute(PIXELS[5:6])[0]
    in_batches = [compute(np.concatenate([PIXELS[8 : 8 + n], PIXELS[5:6]]))[n] for n in range(1, extraction.BATCH)]
    for row in in_batches:
        np.testing.assert_array_equal(row.boundary, alone.boundary)
        np.testing.assert_array_equal(row.pooled, alone.pooled)


def test_bfloat16_gives_the_same_features_but_for_its_rounding(compute: extraction.Network) -> None:
    """Activations in bfloat16 differ from those in float32 by about a percent in the mean, and have its 8 bits."""
    rounded = extraction.build_network(
        weights.random(seed=1), image_size=SIZE, boundary="block4_pool", precision="bfloat16"
    )
    for exact, row in zip(compute(PIXELS[:8]), rounded(PIXELS[:8]), strict=True):
        for expected, part in zip(exact, row, strict=True):
            difference = np.abs(part.astype(np.float32) - expected).mean() / np.abs(expected.astype(np.float32)).mean()
            assert 1e-4 < difference < 0.03
            assert not (part[part >= 2**-14].view(np.uint16) & 0b111).any()  # the last 3 of float16's 11 bits


def test_an_exception_ends_the_extraction(compute: extraction.Network) -> None:
    """An exception for one photograph is raised, and the photograph is not skipped."""

    def failing(views: Sequence[int]) -> decoding.Pixels:
        if 20 in views:
            raise decoding.UnreadablePhoto("damaged")
        return pixels_of(views)

    with pytest.raises(decoding.UnreadablePhoto, match="damaged"):
        list(extraction.extract(range(30), pixels=failing, compute=compute, put=lambda *_: None))


def test_results_are_in_the_order_of_batches() -> None:
    """Results are in order, whichever batch is done first, and only a few batches are started ahead of need."""
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    def slow_at_first(batch: Sequence[int]) -> list[int]:
        time.sleep(0.05 if 0 in batch else 0)
        return list(batch)

    results = extraction.map_batches(slow_at_first, numbers(), batch=3)
    assert next(results) == [0, 1, 2]
    assert len(taken) <= 3 * (2 * extraction.core_count() + 1)
    assert [number for batch in results for number in batch] == list(range(3, 40))
