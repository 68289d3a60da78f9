import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

from flows import server


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Run a server that is not Prefect's and always sends the same response; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{other.server_port}/api"
        other.shutdown()


def used() -> str:
    """Return the address of the API of the server that a flow would report to."""
    with get_client(sync_client=True) as client:
        return str(client.api_url).removesuffix("/")


def test_a_prefect_server_answers(prefect_server: str) -> None:
    """A running server answers, each time."""
    assert server.answers(prefect_server)
    assert server.answers(prefect_server)


def test_a_closed_port_does_not_answer() -> None:
    """A closed port and an invalid address are no errors; no server answers there."""
    assert not server.answers(server.at(server.free_port()))
    assert not server.answers("127.0.0.1:4200/api")
    assert not server.answers("http://[/api")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>Something else</html>"), (200, b'{"status": "healthy"}'), (404, b""), (503, b"later")],
)
def test_another_server_is_not_taken_for_prefects(status: int, body: bytes) -> None:
    """A server with another response than Prefect's does not count as one."""
    with answering(status, body) as address:
        assert not server.answers(address)


@pytest.mark.usefixtures("no_prefect_server")
def test_the_address_is_local_unless_named() -> None:
    """Without PREFECT_API_URL the address is on this machine, at the port of Prefect's own setting."""
    assert server.address() == server.local() == "http://127.0.0.1:4200/api"
    with temporary_settings({PREFECT_SERVER_API_PORT: 4321}):
        assert server.address() == server.local() == "http://127.0.0.1:4321/api"
        with temporary_settings({PREFECT_API_URL: "http://elsewhere:1/api"}):
            assert server.address() == "http://elsewhere:1/api"
            assert server.local() == "http://127.0.0.1:4321/api"


def test_a_run_uses_the_configured_server(prefect_server: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With PREFECT_API_URL set, that server is used and no other is started, each time."""
    for _ in range(2):
        with server.connected():
            assert used() == prefect_server
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("no_prefect_server")
def test_a_run_does_not_start_without_the_configured_server(tmp_path: Path) -> None:
    """If the server of PREFECT_API_URL does not answer, a run ends with a line about it, and starts no other."""
    address = server.at(server.free_port())
    result = subprocess.run(
        [sys.executable, "-m", "flows.pipeline"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"No Prefect server answers at {address}, which PREFECT_API_URL names.")
    assert not (tmp_path / "prefect/server.log").exists()


def test_a_run_uses_the_server_of_this_machine(prefect_server: str) -> None:
    """Without PREFECT_API_URL, a server at the local address is used instead of starting one."""
    port = int(prefect_server.removesuffix("/api").rpartition(":")[2])
    with temporary_settings({PREFECT_SERVER_API_PORT: port}, restore_defaults={PREFECT_API_URL}):
        with server.connected():
            assert used() == prefect_server
        assert PREFECT_API_URL.value() is None


def test_pages_of_other_sites_cannot_read_responses(prefect_server: str) -> None:
    """Browsers keep the server's responses from pages of other origins."""
    allowed = "access-control-allow-origin"
    own = prefect_server.removesuffix("/api")
    assert requests.get(f"{prefect_server}/health", headers={"Origin": own}, timeout=5).headers[allowed] == own
    other = requests.get(f"{prefect_server}/health", headers={"Origin": "http://elsewhere.test"}, timeout=5)
    assert allowed not in other.headers


@pytest.mark.usefixtures("no_prefect_server")
def test_a_server_that_does_not_start_is_an_error_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error has the path and the last line of the log, and is raised as soon as the server has ended."""
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho No room left.\necho\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    log = tmp_path / "prefect" / "server.log"
    with pytest.raises(server.NotStartedError, match=f"{re.escape(str(log))}.*No room left"), server.connected():
        raise AssertionError
