from pathlib import Path

import pytest

from tests.servers import SIGNATURE, TOKEN, Fault, StandIn, serve
from tests.transfer.sources.downloads import BODY, QUICK, fetch, refused, signed_url
from transfer.runtime.errors import AccessError, DataError, NetworkError, StageError
from transfer.sources import http
from transfer.sources.http_errors import redact_url

pytestmark = pytest.mark.usefixtures("direct", "secret")


@pytest.mark.reliability("network", "no connection", "retried; exit 75 after six attempts")
def test_refused_connection_is_a_network_error(target: Path) -> None:
    """A port without a server is worth a later run."""
    with serve(BODY) as server:
        url = signed_url(server)
    with refused(NetworkError, "the connection failed or timed out"):
        http.download(url, target, policy=QUICK)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault(status=401), AccessError, "status 401"),
        (Fault(status=403), AccessError, "status 403"),
        (Fault(status=407), AccessError, "proxy must give access"),
        (Fault(status=404), DataError, "status 404"),
        (Fault(status=204), DataError, "status 204"),
        (Fault(status=206, headers={"Content-Range": "bytes 0-9/10"}, body=b"0" * 10), DataError, "status 206"),
        (Fault(status=304), DataError, "status 304"),
        pytest.param(
            *(Fault(headers={"Content-Type": "text/html; charset=utf-8"}), DataError, "a web page"),
            marks=pytest.mark.reliability(
                "network", "a web page instead of the file, with status 200", "exit 65; nothing of the page is kept"
            ),
        ),
        pytest.param(
            *(Fault(headers={"Content-Length": "17"}), DataError, "17 announced"),
            marks=pytest.mark.reliability(
                "network", "a Content-Length other than the known size", "exit 65 before a byte is downloaded"
            ),
        ),
    ],
)
def test_permanent_errors_are_not_retried(
    server: StandIn, target: Path, fault: Fault, error: type[StageError], message: str
) -> None:
    """A response that a retry would not change ends the download, and the message has what was received."""
    server.faults = [fault]
    with refused(error, message):
        fetch(server, target)
    assert len(server.gets) == 1
    assert not target.exists()


@pytest.mark.parametrize("bundle", [None, "gone.pem"])
@pytest.mark.reliability("network", "a certificate that is not trusted", "exit 65; the message has what to check")
def test_untrusted_certificate_is_refused(
    target: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, bundle: str | None
) -> None:
    """An untrusted server receives no request, and the message names REQUESTS_CA_BUNDLE."""
    if bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with serve(BODY, certificate) as server, refused(DataError, "certificate trusted.*REQUESTS_CA_BUNDLE"):
        fetch(server, target)
    assert not server.requests


@pytest.mark.reliability(
    "network",
    "an error while a token or a signed URL is used",
    "neither is in any line, message, traceback, artifact or file",
)
def test_invalid_header_shows_no_url(server: StandIn, target: Path) -> None:
    """The warning of urllib3 about an invalid header, which has the URL, is not shown."""
    server.faults = [Fault(headers={"no header\r\nContent-Language": "en"})]
    fetch(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.reliability("network", "a proxy", "used as http_proxy, https_proxy and no_proxy define")
def test_proxy_is_used(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy in http_proxy is used, except for hosts in no_proxy."""
    monkeypatch.setenv("http_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    http.download(f"http://files.test/file.zip?Signature={SIGNATURE}", target, policy=QUICK)
    assert target.read_bytes() == BODY
    assert server.gets[0].path.startswith("http://files.test/")
    assert server.gets[0].headers["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(server, target.with_name("other.zip"))
    assert server.gets[-1].path.startswith("/file.zip")


@pytest.mark.parametrize("status", [403, 407])
@pytest.mark.reliability("network", "a proxy that denies access", "exit 77; the message has its status")
def test_proxy_that_denies_access(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A proxy that requires a password, or forbids the server, is asked once."""
    monkeypatch.setenv("https_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    server.tunnel = status
    with refused(AccessError, f"https://files.test/file.zip. Received: status {status}"):
        http.download(f"https://files.test/file.zip?Signature={SIGNATURE}", target, policy=QUICK)
    assert len(server.requests) == 1


@pytest.mark.reliability("network", "a proxy that does not answer", "retried; exit 75 after six attempts")
def test_proxy_that_does_not_answer(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the proxy, not the server."""
    with serve(BODY) as server:
        monkeypatch.setenv("http_proxy", server.address.replace("//", f"//me:{TOKEN}@"))
    with refused(NetworkError, "the connection to the proxy in https_proxy or http_proxy failed"):
        http.download(f"http://files.test/?Signature={SIGNATURE}", target, policy=QUICK)


@pytest.mark.parametrize("proxy", ["http://me:{}@[", "http://me:{}@a..b:80", "socks5://me:{}@127.0.0.1:1", "{}://"])
@pytest.mark.reliability(
    "network", "an invalid address of a proxy, or a SOCKS proxy", "exit 65; the message has the variables to check"
)
def test_invalid_proxy(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """The message names the variables that hold the address of a proxy."""
    monkeypatch.setenv("http_proxy", proxy.format(TOKEN))
    with refused(DataError, "a proxy in http_proxy, https_proxy or all_proxy must be valid HTTP URLs"):
        fetch(server, target)


def test_redacted_url_has_no_secret() -> None:
    """User, password, query and fragment are removed."""
    assert redact_url("https://me:secret@host.test/a.zip?Signature=b#c") == "https://host.test/a.zip"
