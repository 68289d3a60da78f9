import signal
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.servers import SIGNATURE, Fault, StandIn, serve
from tests.transfer.sources.downloads import BODY, NO_RETRY, ONE_RETRY, QUICK, fetch, fetch_unknown, refused, signed_url
from transfer.runtime.errors import DataError, NetworkError
from transfer.sources import http, session
from transfer.sources.http_errors import TransientError

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
    with refused(NetworkError, "the connection failed or timed out"):
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


@pytest.mark.reliability("network", "a loop of redirects", "exit 65 after ten")
def test_redirects_are_limited(server: StandIn, target: Path) -> None:
    """A loop of redirects ends."""
    server.faults = [Fault(status=302, headers={"Location": f"/file.zip?Signature={SIGNATURE}"})] * 50
    with refused(DataError, r"ten at most.*\(TooManyRedirects\)"):
        fetch(server, target)
    assert len(server.gets) == 11


def test_body_of_a_redirect_is_not_read(server: StandIn, target: Path) -> None:
    """A redirect is followed at once, even if its own body would never end."""
    location = {"Location": f"other.zip?Signature={SIGNATURE}", "Content-Length": "9999999"}
    server.faults = [Fault(status=307, headers=location, stall_after=0)]
    fetch(server, target)
    assert [request.path.partition("?")[0] for request in server.gets] == ["/file.zip", "/other.zip"]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[::1/", "http://a..b/"])
@pytest.mark.reliability("network", "a redirect to something other than HTTP", "exit 65; it is not followed")
def test_redirect_to_another_protocol_is_refused(server: StandIn, target: Path, location: str) -> None:
    """A redirect must lead to a valid HTTP or HTTPS URL."""
    server.faults = [Fault(status=302, headers={"Location": f"{location}?Signature={SIGNATURE}"})]
    with refused(DataError, "its redirects .* must be valid HTTP URLs"):
        fetch(server, target)
    assert len(server.gets) == 1


@pytest.mark.reliability("network", "a redirect from HTTPS to HTTP", "exit 65; it is not followed")
def test_redirect_from_https_to_http_is_refused(
    server: StandIn, target: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file requested over HTTPS is not accepted over HTTP, and its signature is not sent there."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serve(BODY, certificate) as private:
        fetch(private, target)
        assert target.read_bytes() == BODY
        private.faults = [Fault(status=302, headers={"Location": signed_url(server)})]
        with refused(DataError, "none from HTTPS to HTTP"):
            fetch(private, target.with_name("other.zip"))
    assert not server.gets


@pytest.mark.reliability("network", "a body that stalls", "timed out after 60 seconds; exit 75 after six attempts")
def test_stalled_body_times_out(server: StandIn, target: Path) -> None:
    """A server that stops sending does not keep a run waiting for ever."""
    server.faults = [Fault(stall_after=1000)] * 2
    with refused(NetworkError, "timed out"):
        fetch(server, target, ONE_RETRY._replace(read_timeout=0.2))
    assert not target.exists()


@pytest.mark.reliability(
    "network",
    "a body that arrives at less than 1 KiB a second",
    "timed out after 60 seconds; exit 75 after six attempts",
)
def test_trickling_body_times_out(server: StandIn, target: Path) -> None:
    """Single bytes, each within the timeout of the socket, do not keep a run waiting for ever."""
    server.faults = [Fault(trickle=0.02)] * 2
    with refused(NetworkError, "timed out"):
        fetch(server, target, ONE_RETRY._replace(read_timeout=0.3))
    assert len(server.gets) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(endless=b"x"),
        Fault(status=100, endless=b"\r\nHTTP/1.1 100 Continue\r\n"),
        Fault(chunked=True, endless=b"x"),
        Fault(chunked=True, endless=b"X: x\r\n" * 1000),
    ],
    ids=["a header", "interim responses", "a trailer", "trailers, fast"],
)
@pytest.mark.reliability(
    "network", "headers or trailers that never end", "timed out after 60 seconds; exit 75 after six attempts"
)
def test_endless_headers_time_out(server: StandIn, target: Path, fault: Fault) -> None:
    """Headers, interim responses and trailers have one time limit together, however fast their bytes arrive."""
    server.faults = [fault] * 2
    with refused(NetworkError, "timed out"):
        fetch_unknown(server, target, ONE_RETRY._replace(read_timeout=0.3))
    assert len(server.gets) == 2
    assert not target.exists()


def test_deadline_leaves_other_timers_alone() -> None:
    """An outer timer and its handler are in place after the block, also if the block takes too long."""
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(TransientError, match=r"timed out after 0\.05 s"), session.deadline(0.05):
        time.sleep(5)
    time.sleep(0.3)
    assert rung == [signal.SIGALRM]
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def test_in_a_thread_the_timeout_of_the_socket_holds(server: StandIn, target: Path) -> None:
    """A download in another thread than the main one works, and a server that stalls does not keep it waiting."""
    server.faults = [Fault(stall_after=1000)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(fetch, server, target, ONE_RETRY._replace(read_timeout=1)).result(timeout=60)
    assert target.read_bytes() == BODY


def test_slow_connection_has_enough_time(server: StandIn, target: Path) -> None:
    """A body may take several times the read timeout, if it is not slower than the lowest rate."""
    server.faults = [Fault(trickle=0.03)]
    server.body = b"slowly" * 20
    http.download(server.address, target, policy=NO_RETRY._replace(read_timeout=1, min_rate=2))
    assert target.read_bytes() == server.body
