"""Serve: run a Prefect server, the deployments of prefect.yaml and a worker on this machine: `make serve`."""

import argparse
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

from flows import ownership, processes, server, worker

AUTOMATION = "A run that has gone silent has crashed"  # its name on the server
_PAUSE = 1.0  # seconds between two checks of server and worker
_SILENCE = timedelta(minutes=7)  # a run sends a heartbeat every three


class NotServedError(Exception):
    """Server or deployments cannot be set up; the text is the message for the user."""


def main() -> int:
    """Serve until a signal ends the process; return the exit code."""
    processes.interrupt_on_signals()
    address = server.address()
    if line := server.ignored():
        print(line, file=sys.stderr, flush=True)
    processes.bypass_proxy(address)
    try:
        with running_server(address) as own, temporary_settings({PREFECT_API_URL: address}):
            ownership.check()
            create_pool(address)
            with ownership.owned():
                create_deployments(address)
                ended = _work(address, own)
    except (NotServedError, ownership.OwnedError, server.NotStartedError) as error:
        print(error, file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        return 0
    print(f"The {ended} has ended unexpectedly.", file=sys.stderr)
    return 1


def _work(address: str, own: "subprocess.Popen[bytes] | None") -> str:
    """Run a worker until it ends or the server that this process has started; return which of them has ended."""
    with worker.running(address, ownership.worker_name()) as working:
        variables = {"PREFECT_API_URL": address} | processes.without_proxy(address)
        exports = "".join(f"  export {name}={value}\n" for name, value in variables.items())
        print(
            f"Serving at {address.removesuffix('/api')}. Ctrl-C ends it. In another shell:\n"
            f"{exports}  prefect deployment run pipeline/on-demand --watch",
            flush=True,
        )
        while working.poll() is None and (own is None or own.poll() is None):
            time.sleep(_PAUSE)
        return "server" if working.poll() is None else "worker"


@contextmanager
def running_server(address: str) -> Iterator["subprocess.Popen[bytes] | None"]:
    """Use a server at this address during the block: the one that answers there, or a new one.

    Yields:
        The process of the new server; None for one that answered.

    Raises:
        NotStartedError: PREFECT_API_URL names a server that cannot be used, or the new server does not start.
    """
    if server.answers(address):
        print(f"A Prefect server answers at {address} already; using it.", flush=True)
        yield None
        return
    if address != server.local():
        server.check_named()
    print("Starting a Prefect server ...", flush=True)
    with server.running(PREFECT_SERVER_API_PORT.value()) as process:
        yield process


def create_pool(address: str) -> None:
    """Create or update the work pool.

    Raises:
        NotServedError: Prefect refuses.
    """
    _prefect(address, "work-pool", "create", worker.POOL, "--type", "process", "--overwrite")


def create_deployments(address: str) -> None:
    """Create or update the deployments of prefect.yaml and the automation.

    Raises:
        NotServedError: Prefect refuses prefect.yaml.
    """
    _prefect(address, "deploy", "--all")
    automations: Any = Automation  # its methods are coroutines only when called from a coroutine
    try:
        automations.read(name=AUTOMATION)
    except ValueError:
        heartbeat_automation().create()


def _prefect(address: str, *arguments: str) -> None:
    # prefect.yaml refers to this variable, and each worker has to replace the reference by its own clone
    environment = {name: value for name, value in os.environ.items() if name != worker.WORKSPACE}
    done = subprocess.run(  # noqa: S603 - no shell, and the project's own commands
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=environment | {"PREFECT_API_URL": address},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotServedError(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}".rstrip())


def heartbeat_automation() -> Any:
    """Return the automation that marks a run without a heartbeat as crashed.

    Without it, a run whose machine went down stays Running, and keeps the next nightly run from starting.

    Prefect's own recipe: "How to detect and respond to zombie flows", docs.prefect.io.
    """
    ends = ("Completed", "Failed", "Cancelled", "Crashed")
    return Automation(
        name=AUTOMATION,
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
    argparse.ArgumentParser(
        prog="python -m flows.serve", description="Run Prefect's server, schedule and worker, until Ctrl-C."
    ).parse_args()
    sys.exit(main())
