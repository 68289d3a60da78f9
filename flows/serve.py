"""Serve: a Prefect server with the deployments of prefect.yaml and a worker, all on this machine: `make serve`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

from flows import processes, server, worker

SILENT = "A run that has gone silent has crashed"
_PAUSE = 1.0  # seconds between looks at what is served
_SILENCE = timedelta(minutes=7)  # a run is heard from every three


class NotServedError(Exception):
    """Something refuses to be served; the text is the whole message."""


def main() -> int:
    """Serve until interrupted or asked to end."""
    processes.interruptible()
    address = server.address()
    try:
        with running_server(address) as serving, temporary_settings({PREFECT_API_URL: address}):
            set_up(address)
            with worker.running(address) as working:
                print(
                    f"Serving at {address.removesuffix('/api')}. Ctrl-C ends it. In another shell:\n"
                    f"  export PREFECT_API_URL={address}\n"
                    "  prefect deployment run pipeline/on-demand --watch",
                    flush=True,
                )
                while working.poll() is None and (serving is None or serving.poll() is None):
                    time.sleep(_PAUSE)
                ended = "server" if working.poll() is None else "worker"
    except (NotServedError, server.NotStartedError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    print(f"The {ended} has ended by itself.", file=sys.stderr)
    return 1


@contextmanager
def running_server(address: str) -> Iterator["subprocess.Popen[bytes] | None"]:
    """Have a server at this address while the block runs: one of our own, which is returned, or the one that is there.

    Raises:
        NotServedError: PREFECT_API_URL names a server that does not answer.
        NotStartedError: our own does not start.
    """
    if server.answers(address):
        print(f"A Prefect server answers at {address} already; using it.", flush=True)
        yield None
        return
    if address != server.local():
        raise NotServedError(
            f"No Prefect server answers at {address}, which PREFECT_API_URL names. Start it, or unset the variable."
        )
    print("Starting a Prefect server ...", flush=True)
    with server.running(PREFECT_SERVER_API_PORT.value()) as process:
        yield process


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


if __name__ == "__main__":
    sys.exit(main())
