import time
from email.utils import formatdate
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.servers import Fault, StandIn
from tests.transfer.sources.downloads import BODY, ONE_RETRY, QUICK, fetch, refused
from transfer.runtime.errors import NetworkError

pytestmark = pytest.mark.usefixtures("direct", "secret")


def test_progress_renews_the_retries(server: StandIn, target: Path) -> None:
    """A connection may be cut more often than there are retries, if each attempt brings 1 MiB."""
    server.faults = [Fault(cut_after=1_200_000)] * 2
    fetch(server, target, ONE_RETRY)
    assert target.read_bytes() == BODY
    assert len(server.gets) == 3


def test_retries_end_if_the_file_keeps_changing(server: StandIn, target: Path) -> None:
    """Attempts that bring no more bytes than earlier ones are counted, however many bytes they bring."""
    server.etag = None
    server.faults = [Fault(cut_after=2_000_000), Fault(cut_after=100_000)] * 9
    with refused(NetworkError, "the connection failed"):
        fetch(server, target)
    assert len(server.gets) == 3


@pytest.mark.reliability("network", "status 500 or 503", "retried with exponential back-off")
def test_server_errors_are_retried(server: StandIn, target: Path) -> None:
    """A server that recovers delivers the file."""
    server.faults = [Fault(status=503), Fault(status=500)]
    fetch(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "status 503 that stays", "exit 75 after six attempts in a row without progress")
def test_retries_are_limited(server: StandIn, target: Path) -> None:
    """A server that does not recover ends the download, with the URL but without its signature."""
    server.faults = [Fault(status=503)] * 9
    with refused(NetworkError, f"{server.address}/file.zip: status 503"):
        fetch(server, target)
    assert len(server.gets) == 3


@pytest.mark.reliability("network", "status 429 with Retry-After, in seconds or as a date", "waited for, then retried")
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(server: StandIn, target: Path, form: str) -> None:
    """The next attempt is not sent before the time that the server asks for."""
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.faults = [Fault(status=429, headers={"Retry-After": value})]
    start = time.monotonic()
    fetch(server, target)
    assert time.monotonic() - start > 0.9


@pytest.mark.reliability("network", "Retry-After of more than two minutes", "exit 75; the message has the seconds")
def test_long_retry_after_ends_the_download(server: StandIn, target: Path) -> None:
    """A wait longer than the longest back-off is not waited for."""
    server.faults = [Fault(status=429, headers={"Retry-After": "3600"})]
    with refused(NetworkError, "wait 3600 s"):
        fetch(server, target)
    assert len(server.gets) == 1


@pytest.mark.parametrize(
    "value",
    ["0", "-5", "\xb2", "9" * 5000, "soon", "Sun, 06 Nov 1994 08:49:37 GMT", f"1 Jan 2020 0:00 +{'9' * 20}"],
)
@pytest.mark.reliability("network", "a Retry-After that is in the past or invalid", "retried with exponential back-off")
def test_invalid_retry_after_is_ignored(server: StandIn, target: Path, value: str) -> None:
    """The second retry waits as long as without the header."""
    server.faults = [Fault(status=503, headers={"Retry-After": value})] * 2
    start = time.monotonic()
    fetch(server, target, QUICK._replace(retries=Retry(2, backoff_factor=0.05)))
    assert time.monotonic() - start > 0.1
    assert target.read_bytes() == BODY
