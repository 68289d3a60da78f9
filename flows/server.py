"""Server: find or start the Prefect server that a run reports to."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_API_PORT, temporary_settings

from flows import processes

_HOST = "127.0.0.1"
_SECONDS = 10.0  # for an answer, also from a busy server
_DRAINING = 5.0  # seconds to send the remaining logs and events
_STARTING = 180.0  # seconds; the first start creates a database


class NotStartedError(Exception):
    """There is no server to report to; the text is the message for the user."""


def at(port: int) -> str:
    """Return the address of the API of a server on this machine."""
    return f"http://{_HOST}:{port}/api"


def local() -> str:
    """Return the address of the API of the server that `make serve` runs."""
    return at(PREFECT_SERVER_API_PORT.value())


def address() -> str:
    """Return the address of the API of the server that PREFECT_API_URL names; without it, that of `make serve`."""
    return PREFECT_API_URL.value() or local()


def answers(address: str) -> bool:
    """Return whether a Prefect server answers at an address."""
    try:
        return requests.get(f"{address.rstrip('/')}/health", timeout=_SECONDS).json() is True
    except (requests.RequestException, ValueError):
        return False


@contextmanager
def running(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server on this machine during the block; its database and log are in `PREFECT_HOME`.

    Raises:
        NotStartedError: it does not answer in time.
    """
    log = PREFECT_HOME.value() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with processes.child(command(port), environment(port), log) as process:
        deadline = time.monotonic() + _STARTING
        while not answers(at(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotStartedError(f"The Prefect server did not start. {log} ends with: {last_line(log)}")
            time.sleep(0.2)
        yield process


def command(port: int) -> list[str]:
    """Return the command of a server that this project starts."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)]


def environment(port: int) -> dict[str, str]:
    """Return the variables for a server that this project starts."""
    own = {
        "PREFECT_HOME": str(PREFECT_HOME.value()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # with Prefect's default, any page in a browser on this machine could read secrets and start runs
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{_HOST}:{port},http://localhost:{port}",
        # in memory, a restart would lose the lease of a deployment's only slot, which then would never be free again
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    return processes.environment() | own


@contextmanager
def connected() -> Iterator[None]:
    """Use a server during the block: that of PREFECT_API_URL, else one on this machine, else a temporary one.

    The runs of a temporary server stay in Prefect's database.

    Raises:
        NotStartedError: the server that PREFECT_API_URL names does not answer, or a temporary one does not in time.
    """
    if named := PREFECT_API_URL.value():
        if not answers(named):
            raise NotStartedError(
                f"No Prefect server answers at {named}, which PREFECT_API_URL names. "
                "Start one with `make serve`, or unset the variable, and one is started for this run."
            )
        yield
    elif answers(local()):
        with temporary_settings({PREFECT_API_URL: local()}):
            yield
    else:
        print("Starting a Prefect server for this run; `make serve` keeps one running.", file=sys.stderr, flush=True)
        port = free_port()
        with running(port), temporary_settings({PREFECT_API_URL: at(port)}):
            try:
                yield
            finally:  # logs and events are sent in the background: send the rest while the server runs
                APILogWorker.drain_all(_DRAINING)
                EventsWorker.drain_all(_DRAINING)


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server((_HOST, 0)) as listening:
        return int(listening.getsockname()[1])


def last_line(log: Path) -> str:
    """Return the last line of a log file that is not blank."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
