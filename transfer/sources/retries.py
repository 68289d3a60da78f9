"""Retries: how often an attempt is repeated, and the wait before each retry."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import urllib3
from urllib3.util import Retry

from transfer.runtime.errors import NetworkError
from transfer.sources.http_errors import TransientError

log = logging.getLogger(__name__)
_PROGRESS = 1 << 20  # bytes

T = TypeVar("T")


class RetryPolicy(NamedTuple):
    """Retries, timeouts and limits of a download.

    Args:
        retries: the number of retries after a failed attempt, and the back-off in seconds; `backoff_max` is also the
            longest Retry-After that is waited for.
        connect_timeout: seconds to connect to one address of a server.
        read_timeout: seconds for the headers of a response, and for each `min_rate * read_timeout` bytes of its body.
        min_rate: bytes per second.
        max_bytes: size limit of a file whose size is not known in advance.
    """

    retries: Retry = Retry(total=5, backoff_factor=1, backoff_max=120)
    connect_timeout: float = 20.0
    read_timeout: float = 60.0
    min_rate: int = 1 << 10
    max_bytes: int = 4 << 30


def retry(attempt: Callable[[], T], *, policy: RetryPolicy, task: str, received: Callable[[], int] = lambda: 0) -> T:
    """Repeat an attempt until it succeeds, after exponential back-off or the server's Retry-After.

    Args:
        attempt: raises `TransientError` if a retry may help.
        policy: the number of retries, and the waits.
        task: what is attempted, for messages, as in "downloading a.zip".
        received: returns the bytes received so far; after an attempt that receives 1 MiB more than all before it, the
            count of retries starts again.

    Returns:
        What the attempt returns.

    Raises:
        NetworkError: no retry is left, or the server asks for a longer wait than `backoff_max`.
    """
    retries, most = policy.retries, received()
    while True:
        try:
            return attempt()
        except TransientError as error:
            if received() >= most + _PROGRESS:
                retries, most = policy.retries, received()
            kept = " A partial file is kept." if received() else ""
            try:
                retries = retries.increment(error=error)
            except urllib3.exceptions.MaxRetryError:
                raise NetworkError(f"Failed {task}: {error}.{kept} Run again later.") from None
            wait = max(retries.get_backoff_time(), _retry_after(retries, error.retry_after))
            if wait > retries.backoff_max:
                asked = f"The server asks to wait {wait:.0f} s."
                raise NetworkError(f"Failed {task}: {error}. {asked}{kept} Run again later.") from None
            log.info("%s: %s; retrying in %.0f s", task, error, wait)
            time.sleep(wait)


def _retry_after(retries: Retry, value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 if there is no valid header."""
    try:
        return float(retries.parse_retry_after(value)) if value else 0.0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0
