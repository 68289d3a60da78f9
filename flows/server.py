"""Server: the Prefect server that a run reports to."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

_SECONDS = 2.0  # for an answer on loopback
_STARTING = 180  # seconds; the first start of a server makes its database


def place() -> tuple[str, int]:
    """Host and port of a server that runs on this machine."""
    return PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()


def local() -> str:
    """The address of the API of a server that runs on this machine."""
    host, port = place()
    return f"http://{host}:{port}/api"


def address() -> str:
    """The address of the API of the server that PREFECT_API_URL names, or of one on this machine."""
    return PREFECT_API_URL.value() or local()


def answers(address: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        return requests.get(f"{address}/health", timeout=_SECONDS).json() is True
    except (requests.RequestException, ValueError):
        return False


@contextmanager
def connected() -> Iterator[None]:
    """Have a server while the block runs: the one that PREFECT_API_URL names, one on this machine, or a passing one.

    A passing one is started once, when the first run needs it, and its runs stay in Prefect's database.
    """
    os.environ["DO_NOT_TRACK"] = "1"
    settings: dict[Any, Any] = {PREFECT_SERVER_ANALYTICS_ENABLED: False}
    if not PREFECT_API_URL.value():
        if answers(local()):
            settings |= {PREFECT_API_URL: local()}
        else:
            print(
                "Starting a Prefect server for this run; `make serve` keeps one running.", file=sys.stderr, flush=True
            )
            settings |= {
                PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
                PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: _STARTING,
            }
    with temporary_settings(settings):
        yield
