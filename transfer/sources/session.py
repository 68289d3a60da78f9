"""Session: GET requests with time limits and retries."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from transfer.runtime.errors import NetworkError
from transfer.sources.http_errors import TransientError, redact_url, translate_error

log = logging.getLogger(__name__)
_PROGRESS = 1 << 20  # bytes

T = TypeVar("T")


class RetryPolicy(NamedTuple):
    """Retries, timeouts and limits of a download.

    Args:
        retries: the number of retries after a failed attempt, and the back-off in seconds; `backoff_max` is also the
            longest Retry-After that is waited for.
        connect_timeout: seconds to connect to one address of a server.
        read_timeout: seconds for a request with its redirects, and for each `min_rate * read_timeout` bytes of a body.
        min_rate: bytes per second.
        max_bytes: size limit of a file whose size is not known in advance.
    """

    retries: Retry = Retry(total=5, backoff_factor=1, backoff_max=120)
    connect_timeout: float = 20.0
    read_timeout: float = 60.0
    min_rate: int = 1 << 10
    max_bytes: int = 4 << 30


def retry(attempt: Callable[[], T], *, policy: RetryPolicy, task: str, received: Callable[[], int] = lambda: 0) -> T:
    """Repeat an attempt that raises `TransientError`, after exponential back-off or the server's Retry-After.

    Args:
        attempt: its result is returned.
        policy: the number of retries, and the waits.
        task: what is attempted, for messages, as in "downloading a.zip".
        received: returns the bytes received so far; 1 MiB more than ever before makes the count of retries start again.

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
            failed = f"Failed {task}: {error}.{' A partial file is kept.' if received() else ''}"
            try:
                retries = retries.increment(error=error)
            except urllib3.exceptions.MaxRetryError:
                raise NetworkError(f"{failed} Run again later.") from None
            wait = max(retries.get_backoff_time(), _retry_after(retries, error.retry_after))
            if wait > retries.backoff_max:
                raise NetworkError(f"{failed} The server asks to wait {wait:.0f} s. Run again later.") from None
            log.info("%s: %s; retrying in %.0f s", task, error, wait)
            time.sleep(wait)


@contextmanager
def get(url: str, headers: dict[str, str], policy: RetryPolicy) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
    """Send a GET request, follow redirects, and yield the response with the chunks of its body, which is not decoded.

    Raises:
        TransientError: the request failed or took too long, also while the block reads the body.
        AccessError: a proxy requires credentials.
        DataError: the URL, a redirect, a certificate or the address of a proxy is not valid.
    """
    logging.getLogger(urllib3.__name__).setLevel(logging.ERROR)  # its warnings show URLs with their queries
    with requests.Session() as session:
        if url.lower().startswith("https:"):
            del session.adapters["http://"]  # no redirect leads to a connection that is not secure
        session.max_redirects = 10
        session.hooks["response"].append(_skip_body_of_redirect)
        session.headers["Accept-Encoding"] = "identity"
        timeout = policy.connect_timeout, policy.read_timeout
        try:
            with deadline(policy.read_timeout):
                response = session.get(url, headers=headers, stream=True, timeout=timeout)
            with response:
                yield response, iter(partial(_read, response, policy), b"")
        except (urllib3.exceptions.HTTPError, OSError) as error:  # the errors of requests are OSErrors
            raise translate_error(error, redact_url(url)) from None


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `TransientError` in the block after some seconds; an outer timer is paused meanwhile.

    The timeout of a socket starts again with every byte, so a slow server could keep a run waiting for ever. Python
    handles signals in the main thread, where stages download; in any other thread the timeout of the socket must do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise TransientError(f"timed out after {seconds:g} s")  # no OSError, which urllib3 may ignore

    handler, timer = signal.signal(signal.SIGALRM, expire), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)


def _read(response: requests.Response, policy: RetryPolicy) -> bytes:
    with deadline(policy.read_timeout):
        return response.raw.read(int(policy.min_rate * policy.read_timeout), decode_content=False)


def _skip_body_of_redirect(response: requests.Response, **_: object) -> None:
    if response.is_redirect:
        response.close()  # requests would read it, however long
        try:
            urlsplit(response.headers["Location"])
        except ValueError:
            raise requests.exceptions.InvalidURL from None


def _retry_after(retries: Retry, value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 if there is no valid header."""
    try:
        return float(retries.parse_retry_after(value)) if value else 0.0
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0
