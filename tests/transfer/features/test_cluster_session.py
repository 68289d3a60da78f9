import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.features.test_cluster_job import ANSWER, ROW, SHAPES, shots
from tests.transfer.features.test_views import DRAWING
from transfer.features import cluster_job, cluster_worker, store
from transfer.features.cluster_job import Inputs, Job
from transfer.features.cluster_session import Session
from transfer.features.views import Shot
from transfer.runtime.errors import DiskError


class Answer(asyncio.Future[Any]):
    """The future of a call on a worker."""

    def release(self) -> None:
        """Forget the call."""


class Scheduler:
    """A scheduler whose workers of one thread end when they compute a photograph; for each that ends, one joins.

    Args:
        guilty: the sha256 of the photograph.
        workers: how many there are.
    """

    def __init__(self, guilty: str, workers: int) -> None:
        self.calls: dict[str, list[tuple[cluster_worker.Batch, Answer]]] = {str(name): [] for name in range(workers)}
        self.joined, self._guilty = workers, guilty

    async def nthreads(self) -> dict[str, int]:
        """Return the number of threads of each worker."""
        return dict.fromkeys(self.calls, 1)

    def submit(self, function: Callable[..., Any], *arguments: Any, workers: list[str], pure: bool) -> Answer:
        """Call a function on a worker."""
        (address,), answer = workers, Answer()
        if function is cluster_worker.state:
            answer.set_result({**cluster_worker.versions(), "weights": ""})
        elif address in self.calls:
            self.calls[address].append((*arguments, answer))
            asyncio.get_running_loop().call_later(0.001, self._compute, address)
        return answer

    def _compute(self, address: str) -> None:
        """Compute the first batch that a worker has, unless it has ended."""
        if address not in self.calls:
            return
        batch, answer = self.calls[address].pop(0)
        if self._guilty in batch.photographs:
            del self.calls[address]
            self.calls[str(self.joined)] = []
            self.joined += 1
        elif not answer.done():
            answer.set_result(ANSWER * len(batch.views))


def run(job: Job, scheduler: "Scheduler | Late | None" = None, *, photographs: int = 4) -> None:
    """Compute two views of each of some photographs, the first as the known photograph, in batches of up to eight."""
    known = shots(0, 2)
    others = [shot for number in range(1, photographs) for shot in shots(number, 2)]
    batches = [others[start : start + 8] for start in range(0, len(others), 8)]

    async def session() -> None:
        await Session(job, scheduler, known=known, expected=[ROW] * 2, seconds=0).run(batches)

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
    assert counts == [2, 6]


def test_an_error_of_this_machine_ends_the_extraction(job: Job) -> None:
    """An error while rows are computed or stored is raised as it is."""

    def put(shot: Shot, _: store.Row) -> None:
        if shot.photograph.path == "2.jpg":
            raise DiskError("full")

    with pytest.raises(DiskError, match="full"):
        run(job._replace(put=put))


def test_only_a_photograph_that_ends_a_worker_alone_is_named(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the workers that have its batch, then one that has it alone; it is computed here, others by workers."""
    monkeypatch.setattr(cluster_job, "TIMEOUTS", cluster_job.Timeouts(poll=0.001))
    guilty = shots(50, 2)
    for number in range(100):
        (tmp_path / f"{number}.jpg").touch()
    here: list[Shot] = []

    def compute(batch: Sequence[Shot]) -> list[store.Row]:
        here.extend(batch)
        return [ROW] * len(batch)

    inputs = job.inputs._replace(folder=tmp_path, network={"precision": "float32"})
    scheduler = Scheduler(guilty[0].photograph.sha256, workers=3)
    run(job._replace(inputs=inputs, compute=compute), scheduler, photographs=100)
    assert [line for line in caplog.messages if "computed here" in line] == [
        f"A worker ended or failed while it had {tmp_path / '50.jpg'} alone; it is computed here."
    ]
    assert here == guilty
    assert scheduler.joined == 3 + cluster_job.MAX_LOSSES + 1


class Late:
    """A scheduler without workers that answers a second time when all rows are stored, some steps of the loop later."""

    def __init__(self, steps: int) -> None:
        self.calls, self.complete, self._steps = 0, asyncio.Event(), steps

    async def nthreads(self) -> dict[str, int]:
        """Return no worker."""
        self.calls += 1
        if self.calls > 1:
            await self.complete.wait()
            for _ in range(self._steps):
                await asyncio.sleep(0)
        return {}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("steps", range(6))
def test_an_answer_of_the_scheduler_at_the_end_delays_nothing(
    job: Job, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extraction ends when its last row is stored, also if the scheduler answers in this moment."""
    monkeypatch.setattr(cluster_job, "TIMEOUTS", cluster_job.Timeouts(poll=0, no_worker=0))
    scheduler, counts = Late(steps), list[int]()

    def advance(count: int) -> None:
        counts.append(count)
        if sum(counts) == 8:
            scheduler.complete.set()

    run(job._replace(advance=advance), scheduler)
    assert sum(counts) == 8
