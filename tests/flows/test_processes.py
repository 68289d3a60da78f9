import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows import processes

ROOT = Path(__file__).parents[2]
LEADING = """\
import sys, time
from flows import processes

processes.GRACE = 0.3
start = getattr(processes, sys.argv[1])
with start(["/bin/sh", "-c", sys.argv[2]], processes.environment()) as process:
    print(process.pid, flush=True)
    for line in processes.lines(process):
        print(line, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that ignore SIGTERM are killed soon."""
    monkeypatch.setattr(processes, "GRACE", 0.3)


def output_of(script: str, *, secrets: dict[str, str] | None = None) -> list[str]:
    """Run a shell script, which has to succeed; return its lines of output."""
    code, output = processes.run(
        ["/bin/sh", "-c", script], processes.environment(), secrets=secrets or {}, log=lambda _: None
    )
    assert code == 0
    return output


OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Record the processes that other tests have started and still use, such as a server."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children(recursive=True))


def started() -> list[psutil.Process]:
    """Return the running processes that a test has started, and their children."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.pid not in OTHERS and child.status() != psutil.STATUS_ZOMBIE]


def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_returns_exit_code_and_lines() -> None:
    """A run returns the command's exit code and its output on both streams, in order."""
    logged: list[str] = []
    script = "echo out; echo err >&2; echo again; exit 75"
    assert processes.run(["/bin/sh", "-c", script], processes.environment(), secrets={}, log=logged.append) == (
        75,
        logged,
    )
    assert logged == ["out", "err", "again"]


def test_lines_are_logged_as_they_arrive(tmp_path: Path) -> None:
    """A line is logged while the command still runs: this one goes on only after its first line was logged."""
    go = tmp_path / "go"
    script = f"echo first; until [ -e '{go}' ]; do sleep 0.01; done; echo last"
    code, output = processes.run(
        ["/bin/sh", "-c", script], processes.environment(), secrets={}, log=lambda _: go.touch()
    )
    assert (code, output) == (0, ["first", "last"])


def test_of_a_progress_bar_the_last_state_is_logged() -> None:
    """Of a line that is redrawn, the last drawing is logged, also if the cursor went back to its start."""
    assert output_of(r"printf ' 10%%\r 50%%\r100%%\nnext\r\n 1/2\r 2/2\r'") == ["100%", "next", " 2/2"]


def test_colours_and_empty_lines_are_removed() -> None:
    """Escape sequences of terminals and blank lines are removed."""
    assert output_of(r"printf '\033[31mred\033[0m\033[K\n\n  \n\033[1A\033[?25lgreen\n'") == ["red", "green"]


def test_any_bytes_are_logged() -> None:
    """Bytes that are not UTF-8 are replaced, characters split between two reads are kept, a last line needs no end."""
    assert output_of(r"printf 'caf\351 \303'; sleep 0.2; printf '\244\nend'") == ["caf\ufffd ä", "end"]


def test_secrets_are_masked() -> None:
    """The command has the secrets in its environment; neither the log nor the returned lines have their values."""
    logged: list[str] = []
    _, output = processes.run(
        ["/bin/sh", "-c", 'test "$TOKEN" = s3cret && echo "token=$TOKEN,$TOKEN"'],
        processes.environment(),
        secrets={"TOKEN": "s3cret"},
        log=logged.append,
    )
    assert output == logged == ["token=********,********"]


@pytest.mark.timeout(15)
def test_no_process_remains_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a command has ended, neither its background processes nor the watchdog of its group run."""
    monkeypatch.setattr(processes, "GRACE", 60)
    output_of("sleep 60 & sleep 60 & echo done")
    assert started() == []


def test_a_command_that_ignores_sigterm_is_killed() -> None:
    """A command that ignores SIGTERM, with a child that does as well, has ended after the block."""
    with processes.group(["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo up; wait"], processes.environment()) as left:
        assert next(processes.lines(left)) == "up"
        assert len(processes.members(left.pid)) >= 2
    assert processes.members(left.pid) == []
    assert left.returncode == -signal.SIGKILL


def test_a_command_that_handles_sigterm_has_time_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that cleans up on SIGTERM is not killed meanwhile."""
    monkeypatch.setattr(processes, "GRACE", 60)
    script = f"trap 'sleep 0.1; echo well > \"{tmp_path}/how\"; exit' TERM; echo up; while :; do sleep 0.01; done"
    with processes.group(["/bin/sh", "-c", script], processes.environment()) as process:
        assert next(processes.lines(process)) == "up"
    assert (tmp_path / "how").read_text() == "well\n"


def test_an_exception_terminates_the_command() -> None:
    """After an interruption while lines are logged, as of a cancelled run, no process remains."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(["/bin/sh", "-c", "echo up; sleep 60"], processes.environment(), secrets={}, log=interrupted)
    assert started() == []


@pytest.mark.timeout(30)
def test_an_orphan_that_holds_the_pipe_delays_nothing() -> None:
    """A run returns when the command has ended, even if a silent orphan of it has the output open."""
    assert output_of("sleep 60 & echo done") == ["done"]


@pytest.mark.timeout(30)
def test_an_orphan_that_prints_delays_nothing() -> None:
    """A run returns when the command has ended, even if an orphan of it goes on printing."""
    assert output_of("while :; do echo more; sleep 0.01; done & echo done")[0] in ("done", "more")
    assert started() == []


@pytest.mark.timeout(30)
def test_an_orphan_in_another_session_delays_nothing(tmp_path: Path) -> None:
    """A run returns although a process that has left the group has the output open."""
    left = tmp_path / "left"
    output = output_of(
        f"setsid /bin/sh -c \"touch '{left}'; exec sleep 61\" & echo $!; until [ -e '{left}' ]; do sleep 0.01; done"
    )
    os.kill(int(output[0]), signal.SIGKILL)


@pytest.mark.reliability(
    "killed",
    "a flow run terminated, interrupted or killed by `kill -9`",
    "within 10 s the processes of its stage have ended; the next run goes on",
)
@pytest.mark.parametrize("start", ["group", "child"])
def test_processes_end_with_a_killed_parent(start: str) -> None:
    """When a process is killed by SIGKILL, those that it started end, also if they ignore SIGTERM."""
    script = "trap '' TERM; sleep 60 & echo up; wait"
    environment = processes.environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEADING, start, script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        number, up = sorted([parent.stdout.readline(), parent.stdout.readline()])  # a child prints its lines itself
        group = int(number)
        assert up == b"up\n"
        assert len(processes.members(group)) >= 3
        parent.kill()
    until(lambda: processes.members(group) == [])


def test_a_child_is_terminated(tmp_path: Path) -> None:
    """A child runs during the block, in a process group of its own, and gets SIGTERM at its end."""
    script = "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.01; done"
    log = tmp_path / "log"
    log.write_text("before\n")
    with processes.child(["/bin/sh", "-c", script], processes.environment(), log) as child:
        until(lambda: "begun" in log.read_text())
        assert os.getpgid(child.pid) == child.pid
    assert child.returncode == 3
    assert log.read_text() == "before\nbegun\nended\n"


def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed with all it started."""
    monkeypatch.setattr(processes, "_STOPPING", 0.2)
    log = tmp_path / "log"
    script = "trap '' TERM; sleep 60 & echo begun; wait"
    with processes.child(["/bin/sh", "-c", script], processes.environment(), log) as child:
        until(lambda: log.exists() and "begun" in log.read_text())
    assert child.returncode == -signal.SIGKILL
    assert started() == []


def test_python_is_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command `python` is the Python that runs the flows, whatever PATH has first; no telemetry, no prompts."""
    (tmp_path / "python").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("python") == str(tmp_path / "python")
    environment = processes.environment()
    found = shutil.which("python", path=environment["PATH"])
    assert found == str(Path(sys.executable).parent / "python")
    assert environment["DVC_NO_ANALYTICS"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["GIT_TERMINAL_PROMPT"] == "0"


@pytest.fixture
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is configured."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_no_proxy")
@pytest.mark.parametrize(
    ("variables", "server", "hosts"),
    [
        ({"http_proxy": "http://p:1"}, "", "127.0.0.1,::1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.org, .intern"}, "", "example.org,.intern,127.0.0.1,::1"),
        ({"all_proxy": "http://p:1", "no_proxy": "127.0.0.1,a", "NO_PROXY": "b"}, "", "127.0.0.1,a,::1"),
        ({"http_proxy": "http://p:1"}, "http://localhost:4200/api", "127.0.0.1,::1,localhost"),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, "", "*"),
    ],
)
def test_this_machine_is_reached_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], server: str, hosts: str
) -> None:
    """With a proxy, the hosts of no_proxy are extended by this machine, in the variables that child processes get."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_API_URL", server)
    environment = processes.environment()
    assert environment["no_proxy"] == environment["NO_PROXY"] == hosts
    assert {name: environment[name] for name in variables if "no_" not in name.lower()}.items() <= variables.items()


@pytest.mark.usefixtures("_no_proxy")
def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a proxy in the environment, no_proxy stays unset, so that macOS's own settings still apply."""
    monkeypatch.setenv("http_proxy", "")
    assert "no_proxy" not in processes.environment()
    processes.bypass_proxy("http://localhost:4200/api")
    assert "NO_PROXY" not in os.environ


ASKED = """\
import os, signal, sys
from flows import processes

asked, ignored = map(int, sys.argv[1:])
signal.signal(ignored, signal.SIG_IGN)
processes.interrupt_on_signals()
try:
    os.kill(os.getpid(), asked)
    print("goes on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("asked", "ignored", "outcome"),
    [
        (signal.SIGINT, signal.SIGINT, "interrupted"),
        (signal.SIGTERM, signal.SIGINT, "interrupted"),
        (signal.SIGHUP, signal.SIGINT, "interrupted"),
        (signal.SIGHUP, signal.SIGHUP, "goes on"),
    ],
    ids=["Ctrl-C after &", "SIGTERM", "closed terminal", "closed terminal under nohup"],
)
def test_signals_interrupt(asked: signal.Signals, ignored: signal.Signals, outcome: str) -> None:
    """Ctrl-C, also after a shell's `&`, SIGTERM, and a closed terminal unless under `nohup`, interrupt."""
    numbers = [str(int(number)) for number in (asked, ignored)]
    result = subprocess.run(
        [sys.executable, "-c", ASKED, *numbers], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"{outcome}\n")


def test_an_interrupt_that_python_drops_ends_the_command() -> None:
    """Where Python drops the exception of Ctrl-C, as in a finalizer, the command is terminated all the same."""
    processes.interrupt_on_signals()

    def drop(_: str) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    program = "import time; print('started', flush=True); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        processes.run([sys.executable, "-c", program], os.environ, secrets={}, log=drop)
