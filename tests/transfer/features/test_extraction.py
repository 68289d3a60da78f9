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
    """A small network."""
    return extraction.build_network(weights.random(seed=1), image_size=SIZE, boundary="block4_pool")


def shown(views: Sequence[int]) -> decoding.Pixels:
    """The pixels of some views."""
    return PIXELS[list(views)]


def test_every_view_is_computed_and_kept(compute: extraction.Network) -> None:
    """All views are handed on once, with the shapes of the boundary and the base's end, and counted."""
    kept: dict[int, store.Row] = {}
    done = list(extraction.extract(range(30), pixels=shown, compute=compute, keep=kept.__setitem__))
    assert sum(done) == 30
    assert sorted(kept) == list(range(30))
    assert {(row.boundary.shape, row.pooled.shape) for row in kept.values()} == {((2, 2, 512), (1, 1, 512))}


def test_a_row_follows_from_its_photograph_alone(compute: extraction.Network) -> None:
    """A photograph has the same bits alone, in company, and anywhere in a batch."""
    alone = compute(PIXELS[5:6])[0]
    among = [compute(np.concatenate([PIXELS[8 : 8 + n], PIXELS[5:6]]))[n] for n in range(1, extraction.BATCH)]
    for row in among:
        np.testing.assert_array_equal(row.boundary, alone.boundary)
        np.testing.assert_array_equal(row.pooled, alone.pooled)


def test_a_failure_ends_the_extraction(compute: extraction.Network) -> None:
    """What goes wrong with one photograph is raised, not passed over."""

    def failing(views: Sequence[int]) -> decoding.Pixels:
        if 20 in views:
            raise decoding.UnreadablePhoto("gone")
        return shown(views)

    with pytest.raises(decoding.UnreadablePhoto, match="gone"):
        list(extraction.extract(range(30), pixels=failing, compute=compute, keep=lambda *_: None))


def test_results_come_in_order() -> None:
    """What is made of the batches comes in their order, whichever is done first, and only a few are taken ahead."""
    taken = []

    def given() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    def slow_at_first(batch: Sequence[int]) -> list[int]:
        time.sleep(0.05 if 0 in batch else 0)
        return list(batch)

    made = extraction.map_batches(slow_at_first, given(), batch=3)
    assert next(made) == [0, 1, 2]
    assert len(taken) <= 3 * (2 * extraction.core_count() + 1)
    assert [number for batch in made for number in batch] == list(range(3, 40))
