import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.page.waiting import BusyError, Queue, Row


class Computation:
    """A computation that records its batches, and waits until it is released."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, bool]] = []
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self, photographs: Sequence[InputPhotograph], heat_maps: Any) -> list[Row]:
        """Return a row with the name of each photograph; one named `!` is a fault of the program."""
        self.batches.append(("".join(photograph.name for photograph in photographs), heat_maps))
        self.begun.set()
        self.released.wait()
        if "!" in self.batches[-1][0]:
            raise RuntimeError("a fault")
        return [{"file": photograph.name} for photograph in photographs]


@pytest.fixture
def computation() -> Computation:
    """A computation that waits until it is released."""
    return Computation()


@pytest.fixture
def queue(computation: Computation) -> Queue:
    """A queue with one thread, batches of two and four places."""
    queue = Queue(computation, batch=2, threads=1, most=4)
    queue.start()
    return queue


def named(names: str) -> list[InputPhotograph]:
    """Return a photograph for each letter."""
    return [InputPhotograph(name, bytes) for name in names]


def test_photographs_that_wait_are_computed_together(queue: Queue, computation: Computation) -> None:
    """Photographs of several requests share batches, those with heat maps among themselves; each gets its own row."""
    first = queue.put(named("a"), heat_maps=False)
    assert computation.begun.wait(300)
    rows = [
        *queue.put(named("b"), heat_maps=False),
        *queue.put(named("c"), heat_maps=True),
        *queue.put(named("de"), heat_maps=False),
    ]
    computation.released.set()
    assert [future.result(60)["file"] for future in [*first, *rows]] == list("abcde")
    assert computation.batches == [("a", False), ("bd", False), ("c", True), ("e", False)]


def test_the_queue_is_bounded(queue: Queue, computation: Computation) -> None:
    """A request for which no place is left is refused with seconds to wait; one alone may have any number."""
    queue.put(named("a"), heat_maps=False)
    assert computation.begun.wait(300)
    waiting = queue.put(named("bcdefg"), heat_maps=False)
    with pytest.raises(BusyError, match=r"Try again in 1 s") as refusal:
        queue.put(named("h"), heat_maps=False)
    assert refusal.value.seconds == 1
    computation.released.set()
    assert waiting[-1].result(60) == {"file": "g"}
    assert queue.put(named("h"), heat_maps=False)[0].result(60) == {"file": "h"}


def test_cancelled_photographs_are_not_computed(queue: Queue, computation: Computation) -> None:
    """Photographs of a client that has ended free their places at once."""
    queue.put(named("a"), heat_maps=False)
    assert computation.begun.wait(300)
    for future in queue.put(named("bcde"), heat_maps=False):
        future.cancel()
    rows = queue.put(named("fghi"), heat_maps=False)
    computation.released.set()
    assert rows[-1].result(60) == {"file": "i"}
    assert [names for names, _ in computation.batches] == ["a", "fg", "hi"]


def test_a_fault_ends_its_batch_alone(queue: Queue, computation: Computation, caplog: pytest.LogCaptureFixture) -> None:
    """The photographs of a batch that fails fail, the log says why, and the next batch is computed."""
    computation.released.set()
    with caplog.at_level(logging.ERROR):
        [future] = queue.put(named("!"), heat_maps=False)
        with pytest.raises(RuntimeError, match="a fault"):
            future.result(60)
    assert queue.failed
    assert "1 photographs could not be computed" in caplog.text
    assert queue.put(named("a"), heat_maps=False)[0].result(60) == {"file": "a"}
    assert not queue.failed
