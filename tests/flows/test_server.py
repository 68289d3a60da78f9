import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import prefect
import pytest
import requests
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

from flows import pipeline, serve, server, server_problems


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


COMMANDS = """\
from prefect.settings import get_current_settings
from flows import server
settings = get_current_settings()
print(settings.api.url, settings.server.analytics_enabled, server.named(), server.address())
"""


@pytest.mark.usefixtures("no_prefect_server")
@pytest.mark.parametrize(
    ("variables", "output"),
    [
        ({}, "http://127.0.0.1:4200/api False None http://127.0.0.1:4200/api"),
        ({"PREFECT_SERVER_API_PORT": "4300"}, "http://127.0.0.1:4200/api False None http://127.0.0.1:4300/api"),
        ({"PREFECT_API_URL": "http://a:1/api"}, "http://a:1/api False http://a:1/api http://a:1/api"),
    ],
)
def test_prefects_commands_use_the_server_of_make_serve(variables: dict[str, str], output: str) -> None:
    """In the project's folder, Prefect's commands use the server of `make serve` unless the variable names another."""
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=Path(__file__).parents[2],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == output.split()


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
def test_a_run_does_not_start_without_the_configured_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the server of PREFECT_API_URL does not answer, a run ends with a line about it, and starts no other."""
    address = server.at(server.free_port())
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setattr(sys, "argv", ["pipeline"])
    with temporary_settings({PREFECT_API_URL: address}):
        assert pipeline.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
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
    assert requests.get(f"{prefect_server}/health", headers={"Origin": own}, timeout=300).headers[allowed] == own
    other = requests.get(f"{prefect_server}/health", headers={"Origin": "http://elsewhere.test"}, timeout=300)
    assert allowed not in other.headers


BEHIND_A_PROXY = """\
from prefect import flow
from prefect.events import emit_event
from flows import server_problems, serve, server

@flow(log_prints=True)
def small():
    print("a line")
    return 1

with server.connected():
    emit_event("tested", {"prefect.resource.id": "a-test"})
    print(small())
"""


@pytest.mark.reliability("network", "a proxy that does not answer, and a Prefect server", "reached without the proxy")
@pytest.mark.timeout(120)
def test_a_flow_runs_behind_a_proxy(prefect_server: str) -> None:
    """With a proxy in the environment, a flow reaches the server of this machine directly, by address and by name."""
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"), "http://127.0.0.1:9")
    for address in (prefect_server, prefect_server.replace("127.0.0.1", "localhost")):
        kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        result = subprocess.run(
            [sys.executable, "-c", BEHIND_A_PROXY],
            cwd=Path(__file__).parents[2],
            env=kept | proxy | {"PREFECT_API_URL": address},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert (result.returncode, result.stdout) == (0, "1\n"), result.stderr
        assert "Error" not in result.stderr, result.stderr


def message(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error with which a run on a server of its own does not start."""
    with pytest.raises(server.NotStartedError) as error, server.connected():
        raise AssertionError
    capsys.readouterr()
    return f"{error.value.exit_code} {error.value}"


@pytest.mark.usefixtures("no_prefect_server")
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("No room left.", "1 .*server.log ends with: No room left"),
        ("flag.\nValueError: a reason\n    ^^^^", "1 .*server.log ends with: ValueError: a reason"),
        ("alembic.util.exc.CommandError: Can't locate revision identified by 'x'", "1 .*newer.*PREFECT_HOME"),
        ("sqlite3.OperationalError: database or disk is full\nApplication startup failed.", "74 .*disk.*PREFECT_HOME"),
        ("OSError: [Errno 28] No space left on device: 'x'\nApplication", "74 .*disk.*PREFECT_HOME"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, expected: str
) -> None:
    """The error has the reason, with the disk's exit code if it is that; it is raised when the server has ended."""
    (tmp_path / "output").write_text(output + "\n\n")
    failing = tmp_path / "python"
    failing.write_text(f"#!/bin/sh\ncat '{tmp_path}/output'\nexit 1\n")
    failing.chmod(0o755)
    log = tmp_path / "prefect" / "server.log"
    log.parent.mkdir()
    log.write_text("ValueError: of an earlier start\ndatabase or disk is full\n")
    monkeypatch.setattr(sys, "executable", str(failing))
    assert re.match(expected, message(capsys))


@pytest.mark.usefixtures("no_prefect_server")
def test_a_used_port_is_named_before_the_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """If another program listens at the port of `make serve`, nothing is started; the message has the variable."""
    with answering(404, b"") as address, temporary_settings({PREFECT_SERVER_API_PORT: int(address[17:-4])}):
        assert serve.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Port {address[17:-4]} of this machine is used by another program.")
    assert "PREFECT_SERVER_API_PORT" in line
    assert not (tmp_path / "prefect/server.log").exists()


STAND_IN = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.usefixtures("no_prefect_server")
def test_a_temporary_server_finds_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another program takes the port that was free, the temporary server of a run starts at another one."""
    port = server.free_port()
    monkeypatch.setattr(server, "command", lambda port: [sys.executable, "-c", STAND_IN, str(port)])
    with answering(404, b"") as address:
        ports = iter([int(address[17:-4]), port])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        with server.connected():
            assert PREFECT_API_URL.value() == server.at(port)


@pytest.mark.usefixtures("no_prefect_server")
def test_a_home_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PREFECT_HOME that cannot be created ends with the disk's exit code and its name."""
    (tmp_path / "prefect").write_text("a file")
    assert re.match(f"74 {tmp_path}/prefect \\(PREFECT_HOME\\) cannot be written", message(capsys))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b'{"exception_message": "Unauthorized"}', "refuses access.*401.*PREFECT_API_AUTH_STRING"),
        (404, b"", "another program does .status 404"),
        (200, b"true", "^$"),
    ],
)
def test_servers_that_cannot_be_used_are_told_apart(status: int, body: bytes, expected: str) -> None:
    """A server that refuses access is told from another program, and both from none."""
    with answering(status, body) as address:
        assert re.search(expected, server_problems.problem(address))


def test_an_address_without_api_is_told(prefect_server: str) -> None:
    """The message for an address without /api has the right one."""
    assert f"must end in /api: {prefect_server}" in server_problems.problem(prefect_server.removesuffix("/api"))


def test_a_server_of_another_version_is_told(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another major version is refused with both versions."""
    version = prefect.__version__
    monkeypatch.setattr(prefect, "__version__", "2.20.1")
    assert server_problems.problem(prefect_server).endswith(f"must have version 2.20.1. Received: {version}")


@pytest.mark.usefixtures("no_prefect_server")
def test_the_active_profile_is_named(tmp_path: Path) -> None:
    """If Prefect's active profile has the address, the message names the profile; after the named command, none has."""
    address = server.at(server.free_port())
    profile_names(address)
    failed = asked(tmp_path, "server.check_named()")
    assert failed.returncode == 1
    assert f"{address}, which Prefect's active profile `mine` names" in failed.stderr
    command = re.search(r"`prefect (config unset .*?)`", failed.stderr)
    assert command
    subprocess.run([sys.executable, "-m", "prefect", *command[1].split()], cwd=tmp_path, check=True)
    assert asked(tmp_path, "print(server.named())").stdout == "None\n"


@pytest.mark.usefixtures("no_prefect_server")
def test_a_profile_behind_prefect_toml_is_named() -> None:
    """In the project, prefect.toml takes precedence over the profile, and one line says so and how to use the other."""
    profile_names("http://elsewhere:1/api")
    line = asked(Path(__file__).parents[2], "print(server.address(), server.ignored())").stdout
    assert line.startswith("http://127.0.0.1:4200/api Prefect's active profile names http://elsewhere:1/api")
    assert "`export PREFECT_API_URL=http://elsewhere:1/api`" in line


def profile_names(address: str) -> None:
    """Let the active profile of Prefect's home name a server."""
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(exist_ok=True)
    (home / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{address}"\n')


def asked(folder: Path, program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program with the module `server` in a folder."""
    return subprocess.run(
        [sys.executable, "-c", f"from flows import server; {program}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
