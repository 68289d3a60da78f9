"""Waiting: photographs of all requests wait in one bounded queue, and are computed in batches, one on each core."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

from transfer.prediction.inputs import InputPhotograph
from transfer.runtime.errors import StageError

log = logging.getLogger(__name__)

Row = dict[str, Any]
Compute = Callable[[Sequence[InputPhotograph], bool], Sequence[Row]]
_SMOOTHING = 0.1  # weight of the last batch in the mean of the seconds


class BusyError(Exception):
    """Too many photographs wait.

    Args:
        seconds: until the waiting ones are computed, by estimate.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many photographs wait. Try again in {seconds} s.")
        self.seconds = seconds


class _Waiting(NamedTuple):
    photograph: InputPhotograph
    heat_map: bool
    row: "Future[Row]"


class Queue:
    """Photographs that wait, and the threads that compute them.

    Args:
        compute: computes a batch in one of several threads: it receives photographs and whether they need heat maps.
        batch: the largest number of photographs to compute at once.
        threads: how many batches are computed at a time.
        most: how many photographs may wait; a single request may have more while none waits.
    """

    def __init__(self, compute: Compute, *, batch: int, threads: int, most: int) -> None:
        self.failed = False  # whether the last batch could not be computed
        self._compute, self._batch, self._threads, self._most = compute, batch, threads, most
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._seconds = 0.0  # per photograph

    def start(self) -> None:
        """Start the threads, which end with the process."""
        for number in range(self._threads):
            threading.Thread(target=self._work, name=f"predict-{number}", daemon=True).start()

    def put(self, photographs: Sequence[InputPhotograph], *, heat_maps: bool) -> list["Future[Row]"]:
        """Let photographs wait; return a future of each one's row. A cancelled one is not computed.

        Raises:
            BusyError: too many wait already.
        """
        new = [_Waiting(photograph, heat_maps, Future()) for photograph in photographs]
        with self._changed:
            self._drop_cancelled()
            if self._waiting and len(self._waiting) + len(new) > self._most:
                raise BusyError(max(1, math.ceil(len(self._waiting) * self._seconds)))
            self._waiting.extend(new)
            self._changed.notify(len(new))
        return [waiting.row for waiting in new]

    def _drop_cancelled(self) -> None:
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.row.cancelled())

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                batch = self._take()
            self._answer([waiting for waiting in batch if waiting.row.set_running_or_notify_cancel()])

    def _take(self) -> list[_Waiting]:
        """Remove and return the first that waits, and further ones that also need a heat map or also do not."""
        kind = self._waiting[0].heat_map
        batch = list(islice((waiting for waiting in self._waiting if waiting.heat_map == kind), self._batch))
        for waiting in batch:
            self._waiting.remove(waiting)
        return batch

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        start = time.monotonic()
        try:
            rows = self._compute([waiting.photograph for waiting in batch], batch[0].heat_map)
        except (StageError, MemoryError) as error:
            log.warning("%d photographs could not be computed: %s", len(batch), error)
            self._fail(batch, error)
            return
        except Exception as error:
            log.exception("%d photographs could not be computed.", len(batch))
            self._fail(batch, error)
            return
        self.failed = False
        for waiting, row in zip(batch, rows, strict=True):
            waiting.row.set_result(row)
        seconds = (time.monotonic() - start) / len(batch) / self._threads
        self._seconds += _SMOOTHING * (seconds - self._seconds) if self._seconds else seconds

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        self.failed = True
        for waiting in batch:
            waiting.row.set_exception(error)
