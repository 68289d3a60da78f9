"""Prefect's server is safe from pages in a browser: real requests to a real server, and a real browser."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from prefect.variables import Variable
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows import api

VARIABLE = b'{"name": "from_a_page", "value": "written"}'
ROUTES = [("GET", "/health"), ("GET", "/block_types/"), ("POST", "/variables/"), ("POST", "/flow_runs/filter")]
ATTACK = """<title>waiting</title><script>
fetch("{address}/variables/", {{method: "POST", mode: "no-cors", body: new Blob(['{body}'])}})
    .then(() => fetch("{address}/variables/name/from_a_page"))
    .then(() => document.title = "read", () => document.title = "refused");
</script>"""


def status(address: str, method: str, **headers: str) -> int:
    """Send a request with a body in JSON and without Content-Type; return the status of the response."""
    body = VARIABLE if method == "POST" else None
    return requests.request(method, address, data=body, headers=headers, timeout=300).status_code


@contextmanager
def page(html: str) -> Iterator[str]:
    """Serve a page at an origin of its own during the block; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{other.server_port}/"
        other.shutdown()


def rendered(address: str, profile: Path) -> str:
    """Return the HTML of a page after Chromium has run its scripts."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command = [browser, *options, "--timeout=120000", "--virtual-time-budget=8000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.reliability(
    "network", "a page of another origin sends requests to Prefect's server", "refused; status 403"
)
@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize("origin", ["http://elsewhere.test", "http://127.0.0.1:1", "null"])
def test_pages_of_other_origins_are_refused(prefect_server: str, method: str, route: str, origin: str) -> None:
    """A request with the origin of another page is refused on every route, also from another port of this machine."""
    assert status(prefect_server + route, method, Origin=origin) == 403


@pytest.mark.reliability("network", "a host name that resolves to 127.0.0.1 (DNS rebinding)", "refused; status 400")
@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize("host", ["elsewhere.test", "127.0.0.1.elsewhere.test:4200", "[", "localhost@elsewhere.test"])
def test_foreign_hosts_are_refused(prefect_server: str, method: str, route: str, host: str) -> None:
    """A request by another host name than that of this machine is refused on every route, and so are the pages."""
    assert status(prefect_server + route, method, Host=host) == 400
    assert status(prefect_server.removesuffix("/api"), method, Host=host, Origin=f"http://{host}") == 400


def test_a_change_needs_a_token(prefect_server: str) -> None:
    """A request that changes something is refused without the token that Prefect's clients and pages send."""
    own = prefect_server.removesuffix("/api")
    assert status(f"{prefect_server}/variables/", "POST") == 403
    assert status(f"{prefect_server}/variables/", "POST", Origin=own) == 403


def test_web_sockets_of_other_origins_are_refused(prefect_server: str) -> None:
    """Pages of other origins and by foreign hosts cannot subscribe to events; the server's own pages can."""
    address = prefect_server.replace("http:", "ws:") + "/events/out"
    for headers in ({"Origin": "http://elsewhere.test"}, {"Host": "elsewhere.test"}):
        with pytest.raises(InvalidStatus, match=r"40[03]"), connect(address, additional_headers=headers, proxy=None):
            raise AssertionError
    own = prefect_server.removesuffix("/api")
    with connect(address, additional_headers={"Origin": own}, subprotocols=["prefect"], proxy=None):  # type: ignore[list-item]
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:4200", "[::1]:4200", "LOCALHOST:5000"])
def test_names_of_this_machine_are_allowed(host: str) -> None:
    """The server answers by all names of this machine and any port, as of an SSH tunnel, with pages of that address."""
    headers = {b"host": host.encode(), b"origin": f"http://{host}".encode()}
    assert api.refusal(headers, []) == (0, "")


def test_a_request_without_a_host_is_refused() -> None:
    """A request without a host name, as of HTTP/1.0, is refused."""
    assert api.refusal({}, [])[0] == 400


@pytest.mark.usefixtures("prefect_server")
def test_prefects_clients_can_change_things() -> None:
    """Prefect's own client works as before: it asks for a token by itself."""
    Variable.set("from_a_client", "written", overwrite=True)
    assert Variable.get("from_a_client") == "written"
    Variable.unset("from_a_client")


def test_a_page_in_a_browser_changes_nothing(prefect_server: str, tmp_path: Path) -> None:
    """In Chromium, a page of another origin can neither create a variable nor read a response."""
    with page(ATTACK.format(address=prefect_server, body=VARIABLE.decode())) as address:
        assert "<title>refused</title>" in rendered(address, tmp_path)
    assert status(f"{prefect_server}/variables/name/from_a_page", "GET") == 404


def test_the_pages_of_the_server_work_in_a_browser(prefect_server: str, tmp_path: Path) -> None:
    """In Chromium, Prefect's own pages load, send their requests with a token and show the responses."""
    html = rendered(f"{prefect_server.removesuffix('/api')}/variables", tmp_path)
    assert "Add a variable" in html or "No variables" in html, html[:2000]
