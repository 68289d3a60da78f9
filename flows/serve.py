"""Serve: a Prefect server with the deployments of prefect.yaml and a worker, all on this machine: `make serve`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows import processes, server, worker

SILENT = "A run that has gone silent has crashed"
_STARTING = 180.0  # seconds; the first start makes a database
_SILENCE = timedelta(minutes=7)  # a run is heard from every three
_LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # so that a restart forgets no run that holds a slot


class NotServedError(Exception):
    """What is to be served did not start; the text is the whole message."""


def main() -> int:
    """Serve until interrupted or asked to end."""
    processes.interruptible()
    address = server.address()
    try:
        with running_server(address), temporary_settings({PREFECT_API_URL: address}):
            set_up(address)
            with worker.running(address) as process:
                print(
                    f"Serving at {address.removesuffix('/api')}. Ctrl-C ends it. In another shell:\n"
                    f"  export PREFECT_API_URL={address}\n"
                    "  prefect deployment run pipeline/on-demand --watch",
                    flush=True,
                )
                process.wait()
    except NotServedError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    print(f"The worker has ended by itself, with exit code {process.returncode}.", file=sys.stderr)
    return 1


@contextmanager
def running_server(address: str) -> Iterator[None]:
    """Have a server at this address while the block runs: the one that is there, or one of our own.

    Raises:
        NotServedError: PREFECT_API_URL names a server that does not answer, or our own does not start.
    """
    if server.answers(address):
        print(f"A Prefect server answers at {address} already; using it.", flush=True)
        yield
        return
    if address != server.local():
        raise NotServedError(
            f"No Prefect server answers at {address}, which PREFECT_API_URL names. Start it, or unset the variable."
        )
    log = PREFECT_HOME.value() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"Starting a Prefect server; it writes to {log} ...", flush=True)
    host, port = server.place()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    with processes.child(command, server_environment(), log) as process:
        deadline = time.monotonic() + _STARTING
        while not server.answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotServedError(f"The Prefect server did not start; {log} tells why. Received: {last_line(log)}")
            time.sleep(0.2)
        yield


def server_environment() -> dict[str, str]:
    """The variables that a server of our own is started with."""
    own = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
    }
    return processes.environment() | own


def set_up(address: str) -> None:
    """Bring work pool, deployments and automation to what this project says; harmless when they are there.

    Raises:
        NotServedError: Prefect refuses prefect.yaml.
    """
    for arguments in (
        ["work-pool", "create", worker.POOL, "--type", "process", "--overwrite"],
        ["deploy", "--all"],
    ):
        # the variable that names each worker's clone is for workers to fill in
        environment = {name: value for name, value in os.environ.items() if name != worker.WORKSPACE}
        done = subprocess.run(  # noqa: S603 - no shell, and commands of our own
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            env=environment | {"PREFECT_API_URL": address},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotServedError(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}".rstrip())
    automations: Any = Automation  # whose methods are coroutines or not, depending on who calls
    try:
        automations.read(name=SILENT)
    except ValueError:
        silent_runs_crash().create()


def silent_runs_crash() -> Any:
    """A run whose machine went down stays Running for ever, and keeps the next night from starting; this ends it.

    Prefect's own recipe: "How to detect and respond to zombie flows", docs.prefect.io.
    """
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    return Automation(
        name=SILENT,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["flow"], "prefect.resource.name": ["pipeline"]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message="No heartbeat: its machine or process went down.",
                force=False,
            )
        ],
    )


def last_line(log: Path) -> str:
    """The last thing a process wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


if __name__ == "__main__":
    sys.exit(main())
