"""An extraction on a Dask cluster in progress: which workers are used, and which of them computes what.

A worker gets work once it has the versions of this machine and has computed one known photograph to the same row. What
a worker was computing when it ended is computed by another one; what no worker can compute is computed here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from transfer.features import cluster_job, cluster_worker, extraction, store
from transfer.features.cluster_job import (
    Batch,
    Job,
    WorkerError,
    after_loss,
    check_known_rows,
    check_versions,
    is_suspect,
    reason,
    to_rows,
)
from transfer.features.views import Shot

log = logging.getLogger(__name__)

BATCHES_PER_THREAD = 2  # one that a worker computes, and one that it has ready
_SENDING_WEIGHTS = 4  # workers at a time


class Worker(NamedTuple):
    """A worker that gets batches.

    Args:
        address: the worker's.
        threads: how many batches it computes at a time.
        batches: those that it has, in the order in which they were sent.
        places: one for each batch that it may have; a suspect takes all of them, so that the worker has it alone.
        entrance: held while a batch takes its places, so that no two suspects wait for each other's.
    """

    address: str
    threads: int
    batches: list[Batch]
    places: asyncio.Semaphore
    entrance: asyncio.Lock

    async def enter(self, batch: Batch) -> int:
        """Wait until the worker may have a batch; return the number of places that it takes."""
        taken = self.threads * BATCHES_PER_THREAD if is_suspect(batch) else 1
        async with self.entrance:
            for _ in range(taken):
                await self.places.acquire()
        return taken


class Session:
    """An extraction in progress: the batches to compute, and the workers that compute them.

    Args:
        job: what the rows follow from.
        client: Dask's client; None to compute here.
        known: the views of the known photograph.
        expected: their rows, computed here.
        seconds: how long that took.
    """

    def __init__(self, job: Job, client: Any, *, known: list[Shot], expected: list[store.Row], seconds: float) -> None:
        self._job, self._client, self._known, self._expected = job, client, known, expected
        self._batch_timeout = max(cluster_job.TIMEOUTS.batch, cluster_job.TIMEOUTS.batch_factor * seconds)
        self._admitted: set[str] = set()
        self._pending: asyncio.Queue[Batch] = asyncio.Queue()
        self._unfit: asyncio.Queue[Batch] = asyncio.Queue()  # for workers
        self._remaining = 0
        self._alone, self._complete = asyncio.Event(), asyncio.Event()
        self._sending_weights = asyncio.Semaphore(_SENDING_WEIGHTS)

    async def run(self, batches: Sequence[list[Shot]]) -> None:
        """Compute and store the rows of the known photograph and of all batches."""
        self._remaining = len(self._known) + sum(map(len, batches))
        await self._store(self._known, self._expected)
        for batch in batches:
            self._pending.put_nowait(Batch(batch))
        always = asyncio.Event()
        always.set()
        here = [self._compute_here(self._pending, self._alone) for _ in range(extraction.core_count())]
        await _until_one_ends(
            self._complete.wait(),
            self._compute_here(self._unfit, always),
            *here,
            self._follow_workers() if self._client else self._be_alone(),
        )

    async def _be_alone(self) -> None:
        self._alone.set()
        await self._complete.wait()

    async def _follow_workers(self) -> None:
        """Use each worker that joins, until it leaves; compute here while there has been none for a time."""
        using: dict[str, asyncio.Task[None]] = {}
        last_seen = time.monotonic()
        try:
            while True:
                threads = await self._threads()
                for address in using.keys() - threads.keys():
                    log.warning("The worker %s has left.", address)
                    using.pop(address).cancel()
                for address in threads.keys() - using.keys():
                    using[address] = asyncio.create_task(self._use(address, threads[address]))
                for task in using.values():
                    if task.done():
                        task.result()  # raises what is no fault of the worker
                last_seen = time.monotonic() if self._admitted else last_seen
                self._note_presence(time.monotonic() - last_seen)
                await asyncio.sleep(cluster_job.TIMEOUTS.poll)
        finally:
            for task in using.values():
                task.cancel()
            await asyncio.gather(*using.values(), return_exceptions=True)

    def _note_presence(self, seconds_without: float) -> None:
        if self._admitted:
            self._alone.clear()
        elif seconds_without >= cluster_job.TIMEOUTS.no_worker and not self._alone.is_set():
            log.warning(
                "No worker has been ready for %.0f seconds; this machine computes alone until there is one.",
                seconds_without,
            )
            self._alone.set()

    async def _threads(self) -> dict[str, int]:
        """Return the number of threads of each worker that the scheduler knows; none if it does not answer."""
        try:
            async with asyncio.timeout(cluster_job.TIMEOUTS.state):  # `wait_for` may lose a cancellation in Python 3.11
                return dict(await self._client.nthreads())
        except (OSError, RuntimeError):  # also of a connection that is closed
            return {}

    async def _use(self, address: str, threads: int) -> None:
        """Let a worker compute batches; check it anew after each failure, and leave it when it fails the check."""
        while True:
            try:
                await self._check(address)
            except WorkerError as error:
                log.warning("The worker %s gets no work: %s.", address, error)
                return
            self._admitted.add(address)
            places = BATCHES_PER_THREAD * threads
            worker = Worker(address, threads, [], asyncio.Semaphore(places), asyncio.Lock())
            try:
                await _until_one_ends(*(self._send_batches(worker) for _ in range(places)))
            except WorkerError as error:
                log.warning("The worker %s failed: %s. It is checked again.", address, error)
            finally:
                self._admitted.discard(address)

    async def _check(self, address: str) -> None:
        """Check a worker's versions, give it the weights, and compare its rows of the known photograph.

        Raises:
            WorkerError: it differs, or does not answer.
        """
        state = await self._ask(address, cluster_worker.state, seconds=cluster_job.TIMEOUTS.state)
        check_versions(state, cluster_worker.versions())
        if state["weights"] != self._job.inputs.weights_sha256:
            await self._send_weights(address)
        rows = await self._rows(address, Batch(self._known), seconds=cluster_job.TIMEOUTS.first_batch, sent=[])
        tolerance = cluster_job.TOLERANCES[self._job.inputs.network["precision"]]
        check_known_rows(rows, self._expected, tolerance=tolerance)

    async def _send_weights(self, address: str) -> None:
        async with self._sending_weights:
            content = await asyncio.to_thread(self._job.inputs.weights.read_bytes)
            try:
                async with asyncio.timeout(cluster_job.TIMEOUTS.first_batch):
                    (data,) = await self._client.scatter([content], workers=[address], hash=False)
            except OSError as error:  # also a timeout
                raise WorkerError(f"it must receive the weights. Received: {reason(error)}") from None
            await self._ask(
                address,
                cluster_worker.receive_weights,
                data,
                self._job.inputs.weights_sha256,
                seconds=cluster_job.TIMEOUTS.first_batch,
            )

    async def _send_batches(self, worker: Worker) -> None:
        """Let a worker compute one batch after the other."""
        while True:
            batch = await self._pending.get()
            try:
                taken = await worker.enter(batch)
                rows = await self._rows(worker.address, batch, seconds=self._batch_timeout, sent=worker.batches)
                worker.batches.remove(batch)
                for _ in range(taken):
                    worker.places.release()
                await self._store(batch.shots, rows)
            except (WorkerError, asyncio.CancelledError):
                self._put_back(batch, is_blamed=batch in worker.batches[: worker.threads])
                raise

    async def _rows(self, address: str, batch: Batch, *, seconds: float, sent: list[Batch]) -> list[store.Row]:
        """Return the rows that a worker computes; when they are sent, the batch is added to a list."""
        message = await asyncio.to_thread(self._message, batch.shots)
        sent.append(batch)
        answer = await self._ask(address, cluster_worker.compute, message, seconds=seconds)
        return to_rows(answer, count=len(batch.shots), shapes=self._job.inputs.shapes)

    def _message(self, shots: list[Shot]) -> cluster_worker.Batch:
        drawing = self._job.inputs.drawing
        return cluster_worker.Batch(
            photographs={
                shot.photograph.sha256: (self._job.inputs.folder / shot.photograph.path).read_bytes() for shot in shots
            },
            views=[(shot.photograph.sha256, shot.view) for shot in shots],
            drawing=drawing._asdict() | {"augmentation": drawing.augmentation.model_dump()},
            network=self._job.inputs.network,
        )

    async def _ask(self, address: str, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Return what a function returns on a worker.

        Raises:
            WorkerError: it raised an exception there, or did not return in time.
        """
        future = self._client.submit(function, *arguments, workers=[address], pure=False)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise WorkerError(f"it must answer within {seconds:.0f} seconds") from None
        except asyncio.CancelledError:
            if future.cancelled():  # by the scheduler, not by this process
                raise WorkerError("the scheduler has cancelled its work") from None
            raise
        except Exception as error:  # noqa: BLE001 - whatever the function raised on the worker
            raise WorkerError(reason(error)) from None
        finally:
            future.release()

    def _put_back(self, batch: Batch, *, is_blamed: bool) -> None:
        """Send a batch that a worker did not return to workers again; compute here what they cannot.

        Args:
            batch: the batch.
            is_blamed: whether the worker was computing it; the others waited there, and did no harm.
        """
        batches = after_loss(batch) if is_blamed else [batch]
        for part in batches:
            self._pending.put_nowait(part)
        if not batches:
            path = self._job.inputs.folder / batch.shots[0].photograph.path
            log.warning("A worker ended or failed while it had %s alone; it is computed here.", path)
            self._unfit.put_nowait(batch)

    async def _compute_here(self, batches: "asyncio.Queue[Batch]", allowed: asyncio.Event) -> None:
        """Compute batches on this machine while it is allowed."""
        while True:
            await allowed.wait()
            batch = await batches.get()
            await self._store(batch.shots, await asyncio.to_thread(self._job.compute, batch.shots))

    async def _store(self, shots: list[Shot], rows: Sequence[store.Row]) -> None:
        await asyncio.to_thread(lambda: [self._job.put(*pair) for pair in zip(shots, rows, strict=True)])
        self._job.advance(len(shots))
        self._remaining -= len(shots)
        if not self._remaining:
            self._complete.set()


async def _until_one_ends(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until one of them returns or raises; cancel the others, and raise what it raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
