"""Server: the Prefect server that a run reports to."""

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
_SECONDS = 10.0  # for an answer, also of a server that is busy
_DRAINING = 5.0
_STARTING = 180.0  # seconds; the first start makes a database


class NotStartedError(Exception):
    """There is no server to report to; the text is the whole message."""


def at(port: int) -> str:
    """The address of the API of a server on this machine."""
    return f"http://{_HOST}:{port}/api"


def local() -> str:
    """The address of the API of the server that `make serve` runs."""
    return at(PREFECT_SERVER_API_PORT.value())


def address() -> str:
    """The address of the API of the server that PREFECT_API_URL names, or of one on this machine."""
    return PREFECT_API_URL.value() or local()


def answers(address: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        return requests.get(f"{address.rstrip('/')}/health", timeout=_SECONDS).json() is True
    except (requests.RequestException, ValueError):
        return False


@contextmanager
def running(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Have a server on this machine while the block runs, which ends with it; it keeps to `PREFECT_HOME`.

    Raises:
        NotStartedError: it does not answer in time.
    """
    log = PREFECT_HOME.value() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)]
    with processes.child(command, environment(port), log) as process:
        deadline = time.monotonic() + _STARTING
        while not answers(at(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotStartedError(f"The Prefect server did not start. {log} ends with: {last_line(log)}")
            time.sleep(0.2)
        yield process


def environment(port: int) -> dict[str, str]:
    """The variables that a server of our own is started with."""
    own = {
        "PREFECT_HOME": str(PREFECT_HOME.value()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # any page in a browser on this machine could ask it for secrets, and to run things
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{_HOST}:{port},http://localhost:{port}",
        # kept in memory, a restart would forget who has a deployment's one place, and nobody else would get it
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    return processes.environment() | own


@contextmanager
def connected() -> Iterator[None]:
    """Have a server while the block runs: the one that PREFECT_API_URL names, one on this machine, or a passing one.

    A passing one is started once; its runs stay in Prefect's database.

    Raises:
        NotStartedError: it does not answer, or not in time.
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
            finally:  # while there is somebody to take what is still to be told
                APILogWorker.drain_all(_DRAINING)
                EventsWorker.drain_all(_DRAINING)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server((_HOST, 0)) as listening:
        return int(listening.getsockname()[1])


def last_line(log: Path) -> str:
    """The last thing a process wrote."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
