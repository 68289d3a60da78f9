"""Server: find or start the Prefect server that a run reports to."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.context import get_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_API_PORT, temporary_settings

from flows import processes, server_problems
from transfer.runtime.errors import DiskError

_HOST = "127.0.0.1"
_OF_PROJECT = f"http://{_HOST}:4200/api"  # in prefect.toml
_DRAINING = 5.0  # seconds to send the remaining logs and events
_STARTING = 180.0  # seconds; the first start creates a database


class NotStartedError(Exception):
    """There is no server to report to; the text is the message for the user, with the exit code of the process."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def at(port: int) -> str:
    """Return the address of the API of a server on this machine."""
    return f"http://{_HOST}:{port}/api"


def local() -> str:
    """Return the address of the API of the server that `make serve` runs."""
    return at(PREFECT_SERVER_API_PORT.value())


def named() -> str | None:
    """Return the address that PREFECT_API_URL of the environment or of Prefect's active profile names, or None.

    The address in prefect.toml is only for Prefect's commands: it has not the port of PREFECT_SERVER_API_PORT. It takes
    precedence over the profile, whose address is used only if prefect.toml has none.
    """
    value = PREFECT_API_URL.value()
    return None if value == _OF_PROJECT and "PREFECT_API_URL" not in os.environ else value


def address() -> str:
    """Return the address of the API of the server that PREFECT_API_URL names; without it, that of `make serve`."""
    return named() or local()


def answers(address: str) -> bool:
    """Return whether a Prefect server answers at an address."""
    return not server_problems.problem(address)


def check_named() -> None:
    """Check that the server that PREFECT_API_URL names, if it is set, can be used.

    Raises:
        NotStartedError: it does not answer, refuses access, or has another version.
    """
    if (address := named()) and (problem := server_problems.problem(address)):
        source, hint = _source(address)
        hint = f"Correct it, or {hint}, and the server of `make serve` or a new one is used."
        raise NotStartedError(f"{problem}, which {source} names. {hint}")


def _source(address: str) -> tuple[str, str]:
    """Return what names the address of a server, and how to remove it there."""
    if "PREFECT_API_URL" in os.environ:
        return "PREFECT_API_URL", "`unset PREFECT_API_URL`"
    if _of_profile() == address:
        profile = get_settings_context().profile.name
        return f"Prefect's active profile `{profile}`", "run `prefect config unset PREFECT_API_URL --yes`"
    return "prefect.toml or .env", "restore that file"


def _of_profile() -> str | None:
    """Return the address that Prefect's active profile names, whether it is used or not."""
    value = get_settings_context().profile.settings.get(PREFECT_API_URL)
    return None if value is None else str(value)


def ignored() -> str:
    """Return a line about the server of Prefect's active profile if prefect.toml overrides it; otherwise nothing."""
    profile = _of_profile()
    if named() or profile in (None, local()):
        return ""
    return (
        f"Prefect's active profile names {profile}, but prefect.toml takes precedence: {local()} is used. "
        f"To use the other: `export PREFECT_API_URL={profile}`."
    )


@contextmanager
def running(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server on this machine during the block; its database and log are in `PREFECT_HOME`.

    Raises:
        NotStartedError: it does not answer in time.
    """
    if problem := server_problems.port_problem(_HOST, port):
        raise NotStartedError(problem)
    log = PREFECT_HOME.value() / "server.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        reason = f"{log.parent} (PREFECT_HOME) cannot be written: {error.strerror}. Free some space, or choose another."
        raise NotStartedError(reason, DiskError.exit_code) from None
    start = log.stat().st_size
    with processes.child(command(port), environment(port), log) as process:
        deadline = time.monotonic() + _STARTING
        while not answers(at(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                code, reason = server_problems.start_problem(log, start)
                raise NotStartedError(f"The Prefect server did not start. {reason}", code)
            time.sleep(0.2)
        yield process


def command(port: int) -> list[str]:
    """Return the command of a server that this project starts."""
    project = str(Path(__file__).parents[1])
    options = ["--factory", "--app-dir", project, "--host", _HOST, "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "flows.api:create", *options]


def environment(port: int) -> dict[str, str]:
    """Return the variables for a server that this project starts."""
    own = {
        "PREFECT_HOME": str(PREFECT_HOME.value()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": at(port),
        "PREFECT_SERVER_API_HOST": _HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": at(port),
        # with Prefect's defaults, any page in a browser on this machine could read secrets and start runs
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{_HOST}:{port},http://localhost:{port}",
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
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
    processes.bypass_proxy(address())
    check_named()
    if line := ignored():
        print(line, file=sys.stderr, flush=True)
    if named():
        yield
    elif answers(local()):
        with temporary_settings({PREFECT_API_URL: local()}):
            yield
    else:
        print("Starting a Prefect server for this run; `make serve` keeps one running.", file=sys.stderr, flush=True)
        with _temporary() as port, temporary_settings({PREFECT_API_URL: at(port)}):
            try:
                yield
            finally:  # logs and events are sent in the background: send the rest while the server runs
                APILogWorker.drain_all(_DRAINING)
                EventsWorker.drain_all(_DRAINING)


@contextmanager
def _temporary() -> Iterator[int]:
    """Run a server at a free port during the block; yield the port.

    Another program may take the port before the server does; then one other port is tried.
    """
    with ExitStack() as stack:
        port = free_port()
        try:
            stack.enter_context(running(port))
        except NotStartedError:
            if not server_problems.port_problem(_HOST, port):
                raise
            port = free_port()
            stack.enter_context(running(port))
        yield port


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server((_HOST, 0)) as listening:
        return int(listening.getsockname()[1])
