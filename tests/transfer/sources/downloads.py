"""Downloads from a local server, for the tests of `http`, `session` and `http_errors`."""

import hashlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.servers import SIGNATURE, TOKEN, Fault, StandIn
from transfer.runtime.errors import NetworkError, StageError
from transfer.sources import http
from transfer.sources.http import Checksum
from transfer.sources.session import RetryPolicy

BODY = bytes(range(256)) * 12_000
CUT = 983_040  # bytes received before a connection is cut
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
QUICK = RetryPolicy(retries=Retry(2, backoff_factor=0.01, backoff_max=5), connect_timeout=5, read_timeout=5)
ONE_RETRY = QUICK._replace(retries=Retry(1))
NO_RETRY = QUICK._replace(retries=Retry(0))


def signed_url(server: StandIn) -> str:
    """Return the URL of the file, with a signature."""
    return f"{server.address}/file.zip?Signature={SIGNATURE}"


def fetch(server: StandIn, target: Path, policy: RetryPolicy = QUICK, checksum: Checksum | None = SHA256) -> None:
    """Download the file with its size, and its checksum if it is known."""
    http.download(signed_url(server), target, checksum=checksum, size=len(BODY), policy=policy)


def fetch_unknown(server: StandIn, target: Path, policy: RetryPolicy = QUICK) -> None:
    """Download without a known checksum and size, like the archive of Kaggle."""
    http.download(signed_url(server), target, policy=policy)


def ranges(server: StandIn) -> list[str | None]:
    """Return the Range header of each request."""
    return [request.headers.get("Range") for request in server.gets]


@contextmanager
def refused(error: type[StageError], message: str) -> Iterator[None]:
    """Expect an error with a message of one line, and no secret in its traceback."""
    with pytest.raises(error, match=message) as caught:
        yield
    assert "\n" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert SIGNATURE not in shown
    assert TOKEN not in shown


def fail_after_cut(server: StandIn, target: Path) -> None:
    """Leave the partial file of a run that failed."""
    server.faults = [Fault(cut_after=CUT), *[Fault(status=503, body=b"an error page")] * 2]
    with pytest.raises(NetworkError, match="A partial file is kept"):
        fetch(server, target)
    assert not target.exists()
