import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from watchdog.observers import Observer

from flows import arrival
from tests.flows.conftest import wait

QUIET = 0.3  # seconds


class Starts:
    """Stands in for the server: counts the starts; each takes the next of `outcomes`, or succeeds."""

    def __init__(self) -> None:
        self.count = 0
        self.outcomes: list[bool | Exception] = []

    def __call__(self) -> bool:
        """Start a run, find one in progress, or fail."""
        self.count += 1
        outcome = self.outcomes.pop(0) if self.outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """What is started; questions and polls are quick."""
    found = Starts()
    monkeypatch.setattr(arrival, "start", found)
    for name in ("_ASKING", "_FAILING", "_POLLING"):
        monkeypatch.setattr(arrival, name, 0.2)
    return found


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox with a photograph."""
    (tmp_path / "inbox/cat").mkdir(parents=True)
    (tmp_path / "inbox/cat/a.jpg").write_bytes(b"a")
    return tmp_path / "inbox"


def count_after(arrivals: arrival.Arrivals, starts: Starts, number: int) -> int:
    """Wait for a number of starts, and two quiet periods for more; return the number."""

    def reached() -> bool:
        arrivals.start_if_due()
        return starts.count >= number

    wait(reached)
    deadline = time.monotonic() + 2 * QUIET
    wait(lambda: not reached() or time.monotonic() > deadline)
    return starts.count


def test_reading_starts_nothing_and_a_replaced_inbox_does(inbox: Path, starts: Starts) -> None:
    """Files that were there or are read start no run; a new file does, and so does another folder as the inbox."""
    with arrival.observed(inbox, QUIET) as arrivals:
        assert arrivals
        assert (inbox / "cat/a.jpg").read_bytes() == b"a"
        assert count_after(arrivals, starts, 0) == 0
        (inbox / "cat/b.jpg").write_bytes(b"b")
        assert count_after(arrivals, starts, 1) == 1
        shutil.move(inbox, inbox.with_name("other"))
        arrivals.start_if_due()
        inbox.mkdir()
        count_after(arrivals, starts, 2)
        before = starts.count
        (inbox / "c.zip").write_bytes(b"c")
        assert count_after(arrivals, starts, before + 1) == before + 1
        shutil.rmtree(inbox)
        inbox.mkdir()  # often with the number of the one before
        count_after(arrivals, starts, before + 2)
        before = starts.count
        (inbox / "d.zip").write_bytes(b"d")
        assert count_after(arrivals, starts, before + 1) == before + 1


def test_a_start_that_fails_is_repeated(inbox: Path, starts: Starts, capsys: pytest.CaptureFixture[str]) -> None:
    """While a run is in progress, or the server fails, the start is repeated; the failure is one line."""
    starts.outcomes = [False, OSError("no server"), False]
    with arrival.observed(inbox, QUIET) as arrivals:
        assert arrivals
        (inbox / "cat/b.jpg").write_bytes(b"b")
        assert count_after(arrivals, starts, 4) == 4
    assert capsys.readouterr().err == "Photographs have arrived, but no run was started: no server\n"


def on_a_network_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inbox be on a network drive, and the system report no changes there."""
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [SimpleNamespace(mountpoint="/", fstype="nfs4")])
    monkeypatch.setattr(Observer, "schedule", lambda *_, **__: None)


def without_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system have no more watches."""

    def start(_: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(Observer, "start", start)


@pytest.mark.parametrize("prepare", [on_a_network_drive, without_watches])
def test_without_events_the_inbox_is_polled(
    prepare: Callable[[pytest.MonkeyPatch], None], inbox: Path, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network drive, or where the system's watches are used up, new photographs are found by polling."""
    prepare(monkeypatch)
    with arrival.observed(inbox, QUIET) as arrivals:
        assert arrivals
        (inbox / "cat/b.jpg").write_bytes(b"b")
        assert count_after(arrivals, starts, 1) == 1


def test_off_nothing_is_observed(tmp_path: Path) -> None:
    """Without a quiet period nothing is observed, and an inbox need not exist."""
    with arrival.observed(tmp_path / "inbox", None) as arrivals:
        assert arrivals is None
