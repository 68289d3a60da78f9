"""Server problems: the reason for which a Prefect server does not answer or start, as a message for the user."""

import base64
import errno
import re
import shutil
import socket
from pathlib import Path

import prefect
import requests
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_HOME

from transfer.runtime.errors import DiskError

_SECONDS = 10.0  # for an answer, also from a busy server
_MIN_FREE = 1 << 20  # bytes
_NEWER = re.compile(r"Can't locate revision")
_FULL = re.compile(r"No space left on device|database or disk is full|Disk quota exceeded|disk I/O error")


def problem(address: str) -> str:
    """Return why the server at an address cannot be used; an empty text if it can.

    Args:
        address: the address of its API.
    """
    try:
        health = _get(f"{address.rstrip('/')}/health")
        if not _is_true(health):
            return _other_server(address, health)
        version = _get(f"{address.rstrip('/')}/admin/version")
    except (requests.RequestException, ValueError):
        return f"No Prefect server answers at {address}"
    if version.status_code in (401, 403):
        return _refused(address, version)
    match = re.match(r'"?(\d+)\.\d+', version.text) if version.ok else None
    if match and match[1] != prefect.__version__.partition(".")[0]:
        received = version.text.strip('"')
        return f"The Prefect server at {address} must have version {prefect.__version__}. Received: {received}"
    return ""


def _get(address: str) -> requests.Response:
    headers = {}
    if password := PREFECT_API_AUTH_STRING.value():
        headers["Authorization"] = "Basic " + base64.b64encode(password.get_secret_value().encode()).decode()
    elif key := PREFECT_API_KEY.value():
        headers["Authorization"] = f"Bearer {key.get_secret_value() if hasattr(key, 'get_secret_value') else key}"
    return requests.get(address, headers=headers, timeout=_SECONDS)


def _is_true(response: requests.Response) -> bool:
    try:
        return response.json() is True
    except ValueError:
        return False


def _other_server(address: str, health: requests.Response) -> str:
    """Return the reason for which an answer is not that of the API of Prefect."""
    if health.status_code in (401, 403):
        return _refused(address, health)
    if not address.rstrip("/").endswith("/api") and _is_true(_get(f"{address.rstrip('/')}/api/health")):
        return f"The address of a Prefect server must end in /api: {address.rstrip('/')}/api. Received: {address}"
    return f"No Prefect server answers at {address}, but another program does (status {health.status_code})"


def _refused(address: str, response: requests.Response) -> str:
    hint = "set PREFECT_API_AUTH_STRING to its user and password (USER:PASSWORD), or PREFECT_API_KEY"
    return f"The Prefect server at {address} refuses access (status {response.status_code}): {hint}"


def port_problem(host: str, port: int) -> str:
    """Return why a server cannot listen at a port; an empty text if it can."""
    try:
        with socket.create_server((host, port)):
            return ""
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        reason = "is used by another program" if used else f"cannot be used ({error.strerror})"
        other = f"`export PREFECT_SERVER_API_PORT={port % 60000 + 100}`"
        return f"Port {port} of this machine {reason}. Choose another: {other}."


def start_problem(log: Path, start: int) -> tuple[int, str]:
    """Return the exit code and the reason for which a server did not start.

    Args:
        log: the file of its output.
        start: the size of that file before the start.
    """
    text = log.read_bytes()[start:].decode(errors="replace")
    if _FULL.search(text) or shutil.disk_usage(log.parent).free < _MIN_FREE:
        return (
            DiskError.exit_code,
            f"The disk of PREFECT_HOME, {PREFECT_HOME.value()}, is full or fails. Free some space.",
        )
    if _NEWER.search(text):
        return 1, (
            f"A newer version of Prefect than {prefect.__version__} made the database in PREFECT_HOME, "
            f"{PREFECT_HOME.value()}. Choose another folder: `export PREFECT_HOME=~/.prefect-{prefect.__version__}`."
        )
    return 1, f"{log} ends with: {last_line(text)}"


def last_line(text: str) -> str:
    """Return the last line of a log that is not blank and not a mark or fragment of a traceback."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    exceptions = [line for line in lines if re.match(r"([\w.]+\.)?\w*(Error|Exception)\b", line)]
    return (exceptions or lines or ["nothing"])[-1]
