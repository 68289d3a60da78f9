"""Workspace: one run at a time, and nothing of a killed one left running beside it."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil
from dvc.lock import make_lock

from flows import processes
from transfer.runtime import files

MARK = "DOGS_VS_CATS_PIPELINE"  # in the environment of all that a run starts: its workspace
PATIENCE = 3600.0  # seconds to wait for others; a whole run on two cores takes half of that
_PAUSE = 1.0
_LOOKS = 50
_LOCK = Path(".dvc/tmp/pipeline.lock")
_DVC_LOCKS = Path(".dvc/tmp/rwlock")


class BusyError(Exception):
    """Somebody else had the workspace for longer than `PATIENCE`; the text names them."""


class Holder(NamedTuple):
    """A process, and what it is doing."""

    pid: int
    work: str

    def __str__(self) -> str:
        return f"{self.work} (PID {self.pid})"


@contextmanager
def held(work: str, say: Callable[[str], None], *, place: Path = Path()) -> Iterator[None]:
    """Have the workspace to oneself among runs of the pipeline while the block runs, waiting for it if need be.

    The lock goes with the process, however that ends.

    Args:
        work: what this run is called by those who wait for it.
        say: told, once, whom this one waits for.
        place: the workspace.

    Raises:
        BusyError: another run still held it after `PATIENCE` seconds.
    """
    lock = place / _LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        patiently(lambda: _locked(file), lambda: [_written(file)], say)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "work": work}))
        file.flush()
        yield


def patiently(attempt: Callable[[], bool], holders: Callable[[], list[Holder]], say: Callable[[str], None]) -> None:
    """Try until an attempt succeeds.

    Raises:
        BusyError: none did within `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    told = False
    while not attempt():
        others = " and ".join(map(str, holders())) or "another process"
        if time.monotonic() >= deadline:
            raise BusyError(f"The workspace is in use by {others}. Waited {PATIENCE:.0f} s. Run again when it is done.")
        if not told:
            say(f"Waiting for {others} to be done with the workspace.")
            told = True
        time.sleep(_PAUSE)


def dvc_holders() -> list[Holder]:
    """The living processes of DVC that work on something in the workspace, as DVC's own lock file names them."""
    locks = _dvc_locks() or {}
    entries = [*locks.get("write", {}).values(), *(each for found in locks.get("read", {}).values() for each in found)]
    holders = {Holder(entry["pid"], f"`{entry['cmd']}`") for entry in entries}
    return sorted(holder for holder in holders if _holds(holder.pid))


def forget_dead_holders() -> None:
    """Take out of DVC's lock file what killed processes left there; another process may have such a number by now.

    A file that DVC was writing when it was killed goes: no DVC would begin before that.
    """
    with make_lock(str(_DVC_LOCKS.with_suffix(".lock"))):  # without which no DVC writes
        locks = _dvc_locks()
        if locks is None:
            _DVC_LOCKS.unlink()
        if not locks:
            return
        living = {
            "write": {path: entry for path, entry in locks.get("write", {}).items() if _holds(entry["pid"])},
            "read": {
                path: kept
                for path, entries in locks.get("read", {}).items()
                if (kept := [entry for entry in entries if _holds(entry["pid"])])
            },
        }
        if living != locks:
            files.write_json(_DVC_LOCKS, living)


def _dvc_locks() -> dict[str, Any] | None:
    """DVC's lock file; None if it cannot be read, as for the moment in which DVC writes it."""
    for _ in range(_LOOKS):
        try:
            locks = json.loads(_DVC_LOCKS.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            time.sleep(0.02)
            continue
        return locks if isinstance(locks, dict) else None
    return None


def _holds(pid: int) -> bool:
    """Whether a process in DVC's lock file is still the one that wrote itself there."""
    try:
        return psutil.Process(pid).create_time() <= _DVC_LOCKS.stat().st_mtime
    except (psutil.Error, OSError):
        return False


def environment() -> dict[str, str]:
    """The variables that DVC is started with: what it and its stages say comes at once, and they are marked."""
    return processes.environment() | {"PYTHONUNBUFFERED": "1", MARK: os.path.realpath(os.curdir)}


def end_leftovers() -> list[Holder]:
    """End what killed runs left running in this workspace; what that was.

    That is whatever an earlier run of the pipeline started, for as long as this one holds the workspace; and a stage
    that lost the DVC that started it, since nobody will take its result.
    """
    left = leftovers()
    processes.end([process for process, _ in left])
    return [holder for _, holder in left]


def leftovers() -> list[tuple[psutil.Process, Holder]]:
    """What killed runs left running in this workspace."""
    here = os.path.realpath(os.curdir)
    known = _dvc_locks() is not None
    working = {holder.pid for holder in dvc_holders()}
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            stage = environment.get("DVC_STAGE")
            ours = environment.get(MARK) == here
            orphaned = (
                stage is not None
                and known
                and os.path.realpath(environment.get("DVC_ROOT", "")) == here
                and not working & {process.pid, *(parent.pid for parent in process.parents())}
            )
            if (ours or orphaned) and process.pid not in spared and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, Holder(process.pid, stage or "dvc")))
        except (psutil.Error, OSError):
            continue
    return found


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written(file: IO[str]) -> Holder:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):
        return Holder(0, "another run")
