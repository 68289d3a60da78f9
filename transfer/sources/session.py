"""Session: one GET request, whose redirects are safe and whose response arrives before a deadline."""

import io
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from socket import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from transfer.runtime.errors import DataError
from transfer.sources.http_errors import redact_url, translate_error
from transfer.sources.retries import RetryPolicy

_REDIRECTS = 10


@contextmanager
def get(url: str, headers: dict[str, str], policy: RetryPolicy) -> Iterator[tuple[requests.Response, Iterator[bytes]]]:
    """Send a GET request, follow redirects, and yield the response with the chunks of its body.

    The body is not decoded. Errors of the network within the block are translated, and their messages hold no secret.

    Args:
        url: an HTTP or HTTPS URL.
        headers: sent with the request.
        policy: the timeouts. Each chunk has `min_rate * read_timeout` bytes, except the last.

    Raises:
        TransientError: the request failed, or took too long.
        AccessError: a proxy requires credentials.
        DataError: the URL, a redirect, a certificate or the address of a proxy is not valid.
    """
    logging.getLogger(urllib3.__name__).setLevel(logging.ERROR)  # its warnings show URLs with their queries
    adapter = _DeadlineAdapter(policy.read_timeout)
    with requests.Session() as session:
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.max_redirects = _REDIRECTS
        session.hooks["response"].append(_check_redirect)
        session.headers["Accept-Encoding"] = "identity"
        timeout = policy.connect_timeout, policy.read_timeout
        try:
            with session.get(url, headers=headers, stream=True, timeout=timeout) as response:
                yield response, adapter.chunks(response, int(policy.min_rate * policy.read_timeout))
        except (urllib3.exceptions.HTTPError, OSError) as error:  # the errors of requests are OSErrors
            raise translate_error(error, redact_url(url)) from None


def _check_redirect(response: requests.Response, **_: object) -> None:
    """Check that a redirect leads to HTTPS, or from HTTP to HTTP."""
    if not response.is_redirect:
        return
    response.close()  # requests would read the body of the redirect, however long
    try:
        scheme = urlsplit(urljoin(response.url, response.headers["Location"])).scheme
    except ValueError:
        scheme = "an invalid URL"
    if scheme != "https" and not scheme == urlsplit(response.url).scheme == "http":
        raise DataError(
            f"{redact_url(response.url)} must redirect to HTTPS, or from HTTP to HTTP. Received: a redirect to "
            f"{scheme[:20]}. Choose another source, or report this."
        )


class _DeadlineAdapter(HTTPAdapter):
    """An adapter with a time limit for all headers of a response, and for each chunk of its body.

    The timeout of a socket starts again with every byte: a server that sends a byte of a header, of a chunk's size or
    of a trailer now and then would never time out.

    Args:
        seconds: the time limit.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._deadline = 0.0

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return a pool of connections whose responses have the time limit."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = type("Connection", (pool.ConnectionCls,), {"response_class": self._response})
        return pool

    def chunks(self, response: requests.Response, size: int) -> Iterator[bytes]:
        """Yield the body in chunks of `size` bytes; the last may be shorter."""
        self._extend()
        while chunk := response.raw.read(size, decode_content=False):
            yield chunk
            self._extend()

    def remaining(self) -> float:
        """Return the seconds until the deadline, or raise `TimeoutError`."""
        if (seconds := self._deadline - time.monotonic()) > 0:
            return seconds
        raise TimeoutError

    def _extend(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def _response(self, connected: socket, **options: Any) -> HTTPResponse:
        self._extend()
        return HTTPResponse(_Reader(connected, self), **options)  # type: ignore[arg-type] # it calls `makefile` only


class _Reader(io.RawIOBase):
    """The bytes that a socket receives before a deadline."""

    def __init__(self, connected: socket, adapter: _DeadlineAdapter) -> None:
        self._socket, self._bytes, self._adapter = connected, connected.makefile("rb", buffering=0), adapter

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._adapter.remaining())
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()
