"""Workspace: one run of the pipeline at a time, and no process of a killed run beside it."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dvc.lock import make_lock

from flows import processes
from transfer.runtime import files, locks
from transfer.runtime.errors import LockedError

MARK = "DOGS_VS_CATS_PIPELINE"  # a variable of every process that a run starts; its value is the workspace
LONGEST_WAIT = 3600.0  # seconds to wait for other processes; a whole run on two cores takes half of that
_PAUSE = 1.0  # seconds between two attempts
_READS = 50
_CLOCK_ERROR = 1.0  # seconds by which a process's start time may be wrong
_LOCK = Path(".dvc/tmp/pipeline.lock")
_HOLDER = Path(".dvc/tmp/pipeline.json")
_DVC_LOCKS = Path(".dvc/tmp/rwlock")


class WorkspaceBusyError(Exception):
    """Another process used the workspace for longer than `LONGEST_WAIT`; the text names it."""


class Holder(NamedTuple):
    """A process, and the work it does."""

    pid: int
    work: str

    def __str__(self) -> str:
        return f"{self.work} (PID {self.pid})"


@contextmanager
def exclusive(work: str, log: Callable[[str], None], *, workspace: Path = Path()) -> Iterator[None]:
    """Hold the workspace's lock during the block; wait for it while another run of the pipeline holds it.

    The lock ends with the process that holds it, also if that is killed.

    Args:
        work: the name of this run, for those that wait for it.
        log: called once with a message if this run has to wait.
        workspace: the folder to lock.

    Raises:
        WorkspaceBusyError: another run still held it after `LONGEST_WAIT` seconds.
        DiskError: the lock file cannot be opened, or its file system has no locks.
    """
    with ExitStack() as lock:

        def attempt() -> bool:
            try:
                lock.enter_context(locks.exclusive(workspace / _LOCK, busy=""))
            except LockedError:
                return False
            return True

        wait_until_free(attempt, lambda: [_holder(workspace)], log)
        files.write_json(workspace / _HOLDER, {"pid": os.getpid(), "work": work})
        yield


def _holder(workspace: Path) -> Holder:
    try:
        return Holder(**json.loads((workspace / _HOLDER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Holder(0, "another run")


def wait_until_free(
    attempt: Callable[[], bool], holders: Callable[[], list[Holder]], log: Callable[[str], None]
) -> None:
    """Repeat an attempt until it succeeds.

    Args:
        attempt: returns whether it succeeded.
        holders: returns the processes that are in the way.
        log: called once with a message that names them, if the first attempt fails.

    Raises:
        WorkspaceBusyError: no attempt succeeded within `LONGEST_WAIT` seconds.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    logged = False
    while not attempt():
        names = " and ".join(map(str, holders())) or "another process"
        if time.monotonic() >= deadline:
            raise WorkspaceBusyError(
                f"The workspace is in use by {names}. Waited {LONGEST_WAIT:.0f} s. Run again when that has ended."
            )
        if not logged:
            log(f"Waiting for {names} to finish with the workspace.")
            logged = True
        time.sleep(_PAUSE)


def dvc_holders() -> list[Holder]:
    """Return the running processes of DVC that read or write files of the workspace, from DVC's own lock file."""
    entries = _dvc_locks() or {}
    found = [
        *entries.get("write", {}).values(),
        *(reader for readers in entries.get("read", {}).values() for reader in readers),
    ]
    holders = {Holder(entry["pid"], f"`{entry['cmd']}`") for entry in found}
    return sorted(holder for holder in holders if _may_hold(holder.pid))


def remove_dead_holders() -> None:
    """Remove the entries of processes that have ended from DVC's lock file.

    DVC itself keeps an entry if another process has the ended one's number now, and then refuses to run. A file that
    DVC was writing when it was killed is removed, as DVC would refuse to read it.
    """
    if not _DVC_LOCKS.parent.exists():
        return
    with make_lock(str(_DVC_LOCKS.with_suffix(".lock"))):  # DVC writes only while it holds this lock
        entries = _dvc_locks()
        if entries is None:
            _DVC_LOCKS.unlink()
        if not entries:
            return
        kept = _without_dead(entries)
        if kept != entries:
            files.write_json(_DVC_LOCKS, kept)


def _without_dead(entries: Mapping[str, Any]) -> dict[str, Any]:
    readers = {
        path: [reader for reader in readers if _may_hold(reader["pid"])]
        for path, readers in entries.get("read", {}).items()
    }
    return {
        "write": {path: writer for path, writer in entries.get("write", {}).items() if _may_hold(writer["pid"])},
        "read": {path: kept for path, kept in readers.items() if kept},
    }


def _dvc_locks() -> dict[str, Any] | None:
    """Return the content of DVC's lock file; None if it cannot be read, as for the moment in which DVC writes it."""
    for _ in range(_READS):
        try:
            entries = json.loads(_DVC_LOCKS.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            time.sleep(0.02)
            continue
        return entries if isinstance(entries, dict) else None
    return None


def _may_hold(pid: int) -> bool:
    """Return False if the process of an entry has ended: it started only after DVC's lock file was last written."""
    try:
        process = psutil.Process(pid)
        written = _DVC_LOCKS.stat().st_mtime
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written + _CLOCK_ERROR
    except psutil.AccessDenied:
        return True
    except (psutil.Error, OSError):
        return False


def environment() -> dict[str, str]:
    """Return the variables for DVC and the stages: unbuffered output, and the mark of a run in this workspace."""
    return processes.environment() | {"PYTHONUNBUFFERED": "1", MARK: os.path.realpath(os.curdir)}


def terminate_orphans() -> list[Holder]:
    """Terminate the processes that killed runs left in this workspace, and return them.

    Call it while holding the workspace, since it terminates everything that another run of the pipeline started.
    """
    found = orphans()
    processes.terminate([process for process, _ in found])
    return [holder for _, holder in found]


def orphans() -> list[tuple[psutil.Process, Holder]]:
    """Return the processes that killed runs left in this workspace.

    These are the processes with the mark of a run, and stages whose DVC has ended, since their result is lost. If
    DVC's lock file cannot be read, no stage counts as orphaned.
    """
    workspace = os.path.realpath(os.curdir)
    readable = _dvc_locks() is not None
    holders = {holder.pid for holder in dvc_holders()}
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            stage, root = variables.get("DVC_STAGE"), variables.get("DVC_ROOT")
            marked = variables.get(MARK) == workspace
            orphaned = (
                stage is not None
                and readable
                and root  # the path "" would be this workspace
                and os.path.realpath(root) == workspace
                and not holders & {process.pid, *(parent.pid for parent in process.parents())}
            )
            if (marked or orphaned) and process.pid not in own and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, Holder(process.pid, stage or "dvc")))
        except (psutil.Error, OSError):
            continue
    return found
