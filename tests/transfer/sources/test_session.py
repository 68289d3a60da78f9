from pathlib import Path

import pytest

from tests.servers import SIGNATURE, Fault, StandIn, serve
from tests.transfer.sources.downloads import BODY, NO_RETRY, ONE_RETRY, fetch, fetch_unknown, refused, signed_url
from transfer.runtime.errors import DataError, NetworkError
from transfer.sources import http

pytestmark = pytest.mark.usefixtures("direct", "secret")


@pytest.mark.reliability("network", "a loop of redirects", "exit 65 after ten")
def test_redirects_are_limited(server: StandIn, target: Path) -> None:
    """A loop of redirects ends."""
    server.faults = [Fault(status=302, headers={"Location": f"/file.zip?Signature={SIGNATURE}"})] * 50
    with refused(DataError, "too many redirects"):
        fetch(server, target)
    assert len(server.gets) == 11


def test_body_of_a_redirect_is_not_read(server: StandIn, target: Path) -> None:
    """A redirect is followed at once, even if its own body would never end."""
    location = {"Location": f"other.zip?Signature={SIGNATURE}", "Content-Length": "9999999"}
    server.faults = [Fault(status=307, headers=location, stall_after=0)]
    fetch(server, target)
    assert [request.path.partition("?")[0] for request in server.gets] == ["/file.zip", "/other.zip"]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (f"file:///etc/passwd?Signature={SIGNATURE}", "a redirect to file"),
        (f"ftp://127.0.0.1/?Signature={SIGNATURE}", "a redirect to ftp"),
        (f"http://[::1/?Signature={SIGNATURE}", "a redirect to an invalid URL"),
        (f"http://a..b/?Signature={SIGNATURE}", "must be a valid HTTP URL"),
    ],
)
@pytest.mark.reliability("network", "a redirect to something other than HTTP", "exit 65; it is not followed")
def test_redirect_to_another_protocol_is_refused(server: StandIn, target: Path, location: str, message: str) -> None:
    """A redirect must lead to a valid HTTP or HTTPS URL."""
    server.faults = [Fault(status=302, headers={"Location": location})]
    with refused(DataError, message):
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
        with refused(DataError, "Received: a redirect to http"):
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


def test_slow_connection_has_enough_time(server: StandIn, target: Path) -> None:
    """A body may take many times the read timeout, if it is not slower than the lowest rate."""
    server.faults = [Fault(trickle=0.01)]
    server.body = b"slowly" * 10
    http.download(server.address, target, policy=NO_RETRY._replace(read_timeout=0.1, min_rate=10))
    assert target.read_bytes() == server.body
