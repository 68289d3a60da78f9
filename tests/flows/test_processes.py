import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
    """What does not end when asked is killed soon."""
    monkeypatch.setattr(processes, "GRACE", 0.3)


def said_by(script: str, *, secrets: dict[str, str] | None = None) -> list[str]:
    """The lines of a shell script that must succeed."""
    code, said = processes.run(
        ["/bin/sh", "-c", script], processes.environment(), secrets=secrets or {}, say=lambda _: None
    )
    assert code == 0
    return said


OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Know what other tests have started and go on using, as a server."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children(recursive=True))


def started() -> list[psutil.Process]:
    """What a test has started and what that has, as far as it lives."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.pid not in OTHERS and child.status() != psutil.STATUS_ZOMBIE]


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_exit_code_and_lines_come_back() -> None:
    """A command's exit code and what it said on both streams, in order, are what a run gives."""
    told: list[str] = []
    script = "echo out; echo err >&2; echo again; exit 75"
    assert processes.run(["/bin/sh", "-c", script], processes.environment(), secrets={}, say=told.append) == (75, told)
    assert told == ["out", "err", "again"]


def test_lines_come_as_they_are_said(tmp_path: Path) -> None:
    """A line is told while the command still runs: this one goes on only once its first line was told."""
    go = tmp_path / "go"
    script = f"echo first; until [ -e '{go}' ]; do sleep 0.01; done; echo last"
    code, said = processes.run(["/bin/sh", "-c", script], processes.environment(), secrets={}, say=lambda _: go.touch())
    assert (code, said) == (0, ["first", "last"])


def test_a_bar_becomes_its_last_state() -> None:
    """Of a line drawn over and over the last drawing is told, also if the cursor went back to its start."""
    assert said_by(r"printf ' 10%%\r 50%%\r100%%\nnext\r\n 1/2\r 2/2\r'") == ["100%", "next", " 2/2"]


def test_colours_and_empty_lines_go() -> None:
    """Escape sequences of terminals and lines without a word are left out."""
    assert said_by(r"printf '\033[31mred\033[0m\033[K\n\n  \n\033[1A\033[?25lgreen\n'") == ["red", "green"]


def test_any_bytes_are_told() -> None:
    """Bytes that are no UTF-8 are replaced, characters cut by a read are not, and a last line needs no end."""
    assert said_by(r"printf 'caf\351 \303'; sleep 0.2; printf '\244\nend'") == ["caf\ufffd ä", "end"]


def test_secrets_are_masked() -> None:
    """The command knows the secrets; neither what is told nor what comes back has their values."""
    told: list[str] = []
    _, said = processes.run(
        ["/bin/sh", "-c", 'test "$TOKEN" = s3cret && echo "token=$TOKEN,$TOKEN"'],
        processes.environment(),
        secrets={"TOKEN": "s3cret"},
        say=told.append,
    )
    assert said == told == ["token=********,********"]


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("user abc, key abcdef", "user ********, key ********"),
        ("first and second", "******** and ********"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_each_part_of_a_secret_is_masked(line: str, masked: str) -> None:
    """One secret may begin with another, have several lines or be empty."""
    assert processes.masked(line, ["abc", "abcdef", "first\nsecond\n", "", " "]) == masked


@pytest.mark.timeout(15)
def test_nothing_is_left_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once after a command's end neither what it left behind nor the watcher of its group lives."""
    monkeypatch.setattr(processes, "GRACE", 60)
    said_by("sleep 60 & sleep 60 & echo done")
    assert started() == []


def test_what_ignores_the_request_to_end_is_killed() -> None:
    """A command that will not end, with a child that will not either, is gone when the block is left."""
    with processes.group(["/bin/sh", "-c", "trap '' TERM; sleep 60 & echo up; wait"], processes.environment()) as left:
        assert next(processes.lines(left)) == "up"
        assert len(processes.members(left.pid)) >= 2
    assert processes.members(left.pid) == []
    assert left.returncode == -signal.SIGKILL


def test_what_ends_when_asked_has_the_time_to(tmp_path: Path) -> None:
    """A command that ends in good order when asked is left to do so."""
    script = f"trap 'sleep 0.1; echo well > \"{tmp_path}/how\"; exit' TERM; echo up; while :; do sleep 0.01; done"
    with processes.group(["/bin/sh", "-c", script], processes.environment()) as process:
        assert next(processes.lines(process)) == "up"
    assert (tmp_path / "how").read_text() == "well\n"


def test_an_exception_ends_the_command_too() -> None:
    """An interruption while lines are told, as by a cancelled run, leaves nothing running."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(["/bin/sh", "-c", "echo up; sleep 60"], processes.environment(), secrets={}, say=interrupted)
    assert started() == []


@pytest.mark.timeout(30)
def test_a_leftover_that_holds_the_pipe_holds_up_nothing() -> None:
    """A command has ended when it has, even if a silent process that it left has its output open."""
    assert said_by("sleep 60 & echo done") == ["done"]


@pytest.mark.timeout(30)
def test_a_leftover_that_talks_holds_up_nothing() -> None:
    """A process that was left and goes on talking is not listened to for ever."""
    assert said_by("while :; do echo more; sleep 0.01; done & echo done")[0] in ("done", "more")
    assert started() == []


@pytest.mark.timeout(30)
def test_a_leftover_of_another_session_holds_up_nothing() -> None:
    """A process that has left the group, and that nobody will end, may keep the output open."""
    said = said_by("setsid sleep 61 & echo $!; sleep 0.2")
    os.kill(int(said[0]), signal.SIGKILL)


@pytest.mark.reliability(
    "killed",
    "a flow run asked to end, interrupted or killed by `kill -9`",
    "within 10 s nothing that it started is left; the next run goes on",
)
@pytest.mark.parametrize("start", ["group", "child"])
def test_what_was_started_ends_with_a_killed_parent(start: str) -> None:
    """Killed with -9, a process takes what it started with it, also what ignores the request to end."""
    script = "trap '' TERM; sleep 60 & echo up; wait"
    environment = processes.environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEADING, start, script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        number, up = sorted([parent.stdout.readline(), parent.stdout.readline()])  # a child speaks for itself
        group = int(number)
        assert up == b"up\n"
        assert len(processes.members(group)) >= 3
        parent.kill()
    until(lambda: processes.members(group) == [])


def test_a_child_is_asked_to_end(tmp_path: Path) -> None:
    """A child runs while the block does, in a group of its own, and is asked to end when it is left."""
    script = "trap 'echo ended; exit 3' TERM; echo begun; while :; do sleep 0.01; done"
    log = tmp_path / "log"
    log.write_text("before\n")
    with processes.child(["/bin/sh", "-c", script], processes.environment(), log) as child:
        until(lambda: "begun" in log.read_text())
        assert os.getpgid(child.pid) == child.pid
    assert child.returncode == 3
    assert log.read_text() == "before\nbegun\nended\n"


def test_a_child_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that ignores the request is killed with all it started."""
    monkeypatch.setattr(processes, "_STOPPING", 0.2)
    log = tmp_path / "log"
    script = "trap '' TERM; sleep 60 & echo begun; wait"
    with processes.child(["/bin/sh", "-c", script], processes.environment(), log) as child:
        until(lambda: log.exists() and "begun" in log.read_text())
    assert child.returncode == -signal.SIGKILL
    assert started() == []


def test_python_is_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command `python` is the Python that runs the flows, whatever is first in PATH; nothing calls home or asks."""
    (tmp_path / "python").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("python") == str(tmp_path / "python")
    environment = processes.environment()
    found = shutil.which("python", path=environment["PATH"])
    assert found == str(Path(sys.executable).parent / "python")
    assert environment["DVC_NO_ANALYTICS"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["GIT_TERMINAL_PROMPT"] == "0"


ASKED = """\
import os, signal, sys
from flows import processes

asked, ignored = map(int, sys.argv[1:])
signal.signal(ignored, signal.SIG_IGN)
processes.interruptible()
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
    ids=["Ctrl-C behind &", "SIGTERM", "closed terminal", "closed terminal under nohup"],
)
def test_a_request_to_end_interrupts(asked: signal.Signals, ignored: signal.Signals, outcome: str) -> None:
    """Ctrl-C, also behind a shell's `&`, a request to end and a closed terminal, but under `nohup`, interrupt."""
    numbers = [str(int(number)) for number in (asked, ignored)]
    result = subprocess.run(
        [sys.executable, "-c", ASKED, *numbers], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"{outcome}\n")
