"""Serve: run a Prefect server, the deployments of prefect.yaml and a worker on this machine: `make serve`."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

from flows import arrival, automations, notifications, ownership, processes, server, worker
from transfer.runtime.errors import StageError

_PAUSE = 1.0  # seconds between two checks of server and worker


class NotServedError(Exception):
    """Server or deployments cannot be set up; the text is the message for the user."""


def main(quiet: float | None = None) -> int:
    """Serve until a signal ends the process; return the exit code.

    Args:
        quiet: seconds without a change of the inbox after which photographs that have arrived start a run; if None,
            they start none.
    """
    processes.interrupt_on_signals()
    address = server.address()
    if line := server.ignored():
        print(line, file=sys.stderr, flush=True)
    processes.bypass_proxy(address)
    try:
        webhook = notifications.take_address()
        with running_server(address) as own, temporary_settings({PREFECT_API_URL: address}):
            ownership.check()
            create_pool(address)
            with ownership.owned():
                create_deployments(address)
                if notifications.set_up(webhook):
                    print("Notifications are sent to the webhook that was named.", flush=True)
                ended = _work(address, own, quiet)
    except (NotServedError, ownership.OwnedError, server.NotStartedError, StageError) as error:
        print(error, file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        return 0
    print(f"The {ended} has ended unexpectedly.", file=sys.stderr)
    return 1


def _work(address: str, own: "subprocess.Popen[bytes] | None", quiet: float | None) -> str:
    """Run a worker until it ends or the server that this process has started; return which of them has ended."""
    named = ownership.worker_name()
    with worker.running(address, named) as working, arrival.observed(arrival.INBOX, quiet) as arrivals:
        variables = {"PREFECT_API_URL": address} | processes.without_proxy(address)
        exports = "".join(f"  export {name}={value}\n" for name, value in variables.items())
        print(
            f"Serving at {address.removesuffix('/api')}. Ctrl-C ends it. In another shell:\n"
            f"{exports}  prefect deployment run pipeline/on-demand --watch",
            flush=True,
        )
        while working.poll() is None and (own is None or own.poll() is None):
            if arrivals:
                arrivals.start_if_due()
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
    automations.put(automations.heartbeat())


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m flows.serve", description="Run Prefect's server, schedule and worker, until Ctrl-C."
    )
    parser.add_argument(
        "--on-arrival", type=float, metavar="SECONDS", help="photographs in the inbox start a run after so long a quiet"
    )
    sys.exit(main(parser.parse_args().on_arrival))
