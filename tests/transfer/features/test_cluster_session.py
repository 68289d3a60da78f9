import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.transfer.features.test_cluster_job import ROW, SHAPES, shots
from tests.transfer.features.test_views import DRAWING
from transfer.features import store
from transfer.features.cluster_job import Inputs, Job
from transfer.features.cluster_session import Session
from transfer.features.views import Shot
from transfer.runtime.errors import DiskError


def run(job: Job) -> None:
    """Compute the views of four photographs without a scheduler, the first as the known photograph."""
    known, *others = (shots(number, 2) for number in range(4))

    async def session() -> None:
        await Session(job, None, known=known, expected=[ROW] * 2, seconds=0).run(others)

    asyncio.run(session())


@pytest.fixture
def job() -> Job:
    """Return a job that computes a row for each view and stores nothing."""
    return Job(
        Inputs(Path("photographs"), Path("weights"), "", DRAWING, {}, SHAPES),
        compute=lambda batch: [ROW] * len(batch),
        put=lambda *_: None,
        advance=lambda _: None,
    )


def test_without_a_scheduler_all_views_are_computed_here(job: Job) -> None:
    """Each view is stored and counted once."""
    stored: list[Shot] = []
    counts: list[int] = []

    def put(shot: Shot, row: store.Row) -> None:
        np.testing.assert_array_equal(row.pooled, ROW.pooled)
        stored.append(shot)

    run(job._replace(put=put, advance=counts.append))
    assert sorted(stored) == sorted(shot for number in range(4) for shot in shots(number, 2))
    assert counts == [2] * 4


def test_an_error_of_this_machine_ends_the_extraction(job: Job) -> None:
    """An error while rows are computed or stored is raised as it is."""

    def put(shot: Shot, _: store.Row) -> None:
        if shot.photograph.path == "2.jpg":
            raise DiskError("full")

    with pytest.raises(DiskError, match="full"):
        run(job._replace(put=put))
