"""Arrival: start the deployment `on-demand` when photographs have arrived in the inbox and no more have for a while.

One run is started for many files, none while a run is in progress: those that arrive meanwhile get one run afterwards.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from flows import notifications, remote

INBOX = Path("inbox")
DEPLOYMENT = "pipeline/on-demand"
_GONE = (-1, -1)
_CHANGES = {"created", "modified", "moved", "deleted", "closed"}  # not those of reading; `closed` is after writing
_IN_PROGRESS = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_ASKING = 3.0  # seconds between two questions whether a run is in progress
_FAILING = 15.0  # seconds after which a start that failed is repeated
_SOON = timedelta(minutes=1)  # a run that is due within this time counts as in progress
_POLLING = 5.0  # seconds between two looks at a network drive
# of network drives, and of folders that a virtual machine or a container shares with its host: changes that are made
# elsewhere cause no events here
_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "drvfs", "afs", "ceph", "gluster", "lustre", "virtiofs", "vboxsf")


class Arrivals(FileSystemEventHandler):
    """Observes the inbox, and starts a run after a quiet period."""

    def __init__(self, inbox: Path, quiet: float) -> None:
        """Args: inbox, the folder; quiet, seconds without a change before a run is started."""
        self._inbox = inbox
        self._quiet = quiet
        self._changed: float | None = None  # when the last change was
        self._followed: float | None = None  # the last change that a run has followed
        self._asked = 0.0
        self._path: Path | None = None
        self._folder: tuple[int, int] | None = None  # numbers of the file system and of the folder at this path
        self._observer: BaseObserver | None = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note the time of a change; called by the observer's thread."""
        if event.event_type in _CHANGES:
            self._changed = time.monotonic()
        if event.event_type == "deleted" and Path(os.fsdecode(event.src_path)) == self._path:
            self._folder = _GONE  # a new one may have the same number

    def observe(self) -> None:
        """Observe the inbox, also after it was replaced by another folder, which counts as a change."""
        try:
            status = self._inbox.stat()
        except OSError:
            return  # until there is one
        if (folder := (status.st_dev, status.st_ino)) == self._folder:
            return
        self.end()
        if self._folder:
            self._changed = time.monotonic()
        self._folder, self._path = folder, self._inbox.resolve()
        self._observer = observer(self._path, self)

    def end(self) -> None:
        """Observe no longer."""
        if self._observer:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def start_if_due(self) -> None:
        """Start a run if photographs have arrived, none has for the quiet period, and no run is in progress."""
        self.observe()
        now, changed = time.monotonic(), self._changed
        if changed is None or changed == self._followed or now < max(changed + self._quiet, self._asked):
            return
        self._asked = now + _ASKING
        try:
            if start():
                self._followed = changed
        except Exception as error:  # noqa: BLE001 - whatever the server and the network do, serving goes on
            print(f"Photographs have arrived, but no run was started: {remote.one_line(error)}", file=sys.stderr)
            self._asked = now + _FAILING


@contextmanager
def observed(inbox: Path, quiet: float | None) -> Iterator[Arrivals | None]:
    """Observe the inbox during the block; without a quiet period, do not."""
    if quiet is None:
        yield None
        return
    arrivals = Arrivals(inbox, quiet)
    arrivals.observe()
    try:
        yield arrivals
    finally:
        arrivals.end()


def observer(folder: Path, handler: FileSystemEventHandler) -> BaseObserver:
    """Return a running observer of a folder; it polls where the system reports no changes."""
    if not is_remote(folder):
        watching = Observer()
        try:
            watching.schedule(handler, str(folder), recursive=True)
            watching.start()
        except OSError as error:  # as without inotify, or when its watches are used up
            print(f"Looking at {folder} every {_POLLING:g} s: {error.strerror}.", file=sys.stderr, flush=True)
        else:
            return watching
    polling = PollingObserver(timeout=_POLLING)
    polling.schedule(handler, str(folder), recursive=True)
    polling.start()
    return polling


def is_remote(folder: Path) -> bool:
    """Return whether a folder is on a file system that other machines may write to."""
    found = [disk for disk in psutil.disk_partitions(all=True) if folder.is_relative_to(disk.mountpoint)]
    return bool(found) and max(found, key=lambda disk: len(disk.mountpoint)).fstype.lower().startswith(_REMOTE)


def start() -> bool:
    """Start a run of the deployment unless one of the pipeline is in progress; return whether one was started."""
    with get_client(sync_client=True) as client:
        if _is_in_progress(client):
            return False
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        run = client.create_flow_run_from_deployment(deployment.id, tags=[notifications.ON_ARRIVAL])
    print(f"Photographs have arrived; started the run {run.name}.", flush=True)
    return True


def _is_in_progress(client: SyncPrefectClient) -> bool:
    """Return whether a run is in progress or due; runs that are scheduled for later do not count."""
    soon: Any = datetime.now(UTC) + _SOON
    due = FlowRunFilterExpectedStartTime(before_=soon)
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=_IN_PROGRESS))
    return bool(
        client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["pipeline"])),
            flow_run_filter=FlowRunFilter(state=states, expected_start_time=due),
            limit=1,
        )
    )
