import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows import processes, workspace
from flows.workspace import Holder
from tests.flows.conftest import ROOT, dvc, someone_reproducing

HOLDING = """\
import sys
from flows import workspace

with workspace.held("flow run brave-otter", print):
    print("held", flush=True)
    sys.stdin.readline()
"""
ENDING = """\
from flows import workspace

print(workspace.end_leftovers(), flush=True)
"""
IN_ONE_GROUP = """\
import os, subprocess, sys
from flows import workspace

orphan = subprocess.Popen(["sleep", "60"], env=os.environ | {"DVC_STAGE": "split", "DVC_ROOT": os.getcwd()})
print(workspace.end_leftovers() == [(orphan.pid, "split")], orphan.poll() is not None, flush=True)
"""


def nothing(line: str) -> None:
    """Nothing is to be said."""
    raise AssertionError(line)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting goes in small steps and soon ends, and what does not end when asked is killed soon."""
    monkeypatch.setattr(workspace, "_PAUSE", 0.02)
    monkeypatch.setattr(workspace, "_LOOKS", 2)
    monkeypatch.setattr(processes, "GRACE", 0.5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without a project."""
    folder = tmp_path / "with a space"
    (folder / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def another_run() -> Iterator["subprocess.Popen[bytes]"]:
    """Have another run of the pipeline in the workspace, until a line is sent to it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def sleeping(variables: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Have a process and its child with some variables while the block runs, in a group of their own."""
    command = ["/bin/sh", "-c", "sleep 60 & echo up; wait"]
    with subprocess.Popen(command, env=os.environ | variables, process_group=0, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            processes.end_group(process.pid)


def dead_pid() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def lock_of_dvc(*, write: dict[str, object], read: dict[str, object]) -> None:
    """Leave what DVC notes of who reads and writes what."""
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": write, "read": read}))


@pytest.mark.usefixtures("here")
def test_a_free_workspace_is_had_at_once() -> None:
    """Nobody is waited for, run after run."""
    for work in ("first", "second"):
        with workspace.held(work, nothing):
            pass


def test_waiting_is_said_once() -> None:
    """However long it takes, there is one line; who cannot be named is another process."""
    said: list[str] = []
    attempts = iter([False, False, False, True])
    workspace.patiently(lambda: next(attempts), list, said.append)
    assert said == ["Waiting for another process to be done with the workspace."]


@pytest.mark.reliability("two at once", "two flow runs", "the second waits, says for whom, and finds the work done")
@pytest.mark.usefixtures("here")
def test_another_run_is_waited_for_by_name() -> None:
    """The second run says, once, which run it waits for, and goes on when that is done."""
    said: list[str] = []
    with another_run() as other:

        def say(line: str) -> None:
            said.append(line)
            assert other.stdin
            other.stdin.write(b"\n")
            other.stdin.flush()

        with workspace.held("mine", say):
            assert other.wait(30) == 0
    assert said == [f"Waiting for flow run brave-otter (PID {other.pid}) to be done with the workspace."]


@pytest.mark.reliability("two at once", "a flow run that has waited for an hour", "ends, naming who has the workspace")
@pytest.mark.usefixtures("here")
def test_waiting_for_a_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the patience is over, the error names the run that has the workspace and says what to do."""
    monkeypatch.setattr(workspace, "PATIENCE", 0.1)
    with (
        another_run() as other,
        pytest.raises(workspace.BusyError) as busy,
        workspace.held("mine", lambda _: None),
    ):
        raise AssertionError
    assert str(busy.value) == (
        f"The workspace is in use by flow run brave-otter (PID {other.pid}). Waited 0 s. Run again when it is done."
    )


@pytest.mark.usefixtures("here")
def test_a_killed_run_frees_the_workspace() -> None:
    """Killed with -9, a run has the workspace no more; and what it left written is not taken for the next holder."""
    with another_run() as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with workspace.held("next", nothing):
            assert json.loads(Path(".dvc/tmp/pipeline.lock").read_text()) == {"pid": os.getpid(), "work": "next"}


@pytest.mark.usefixtures("here")
def test_a_failed_run_frees_the_workspace() -> None:
    """The workspace is free again after an exception."""
    with pytest.raises(ZeroDivisionError), workspace.held("mine", nothing):
        raise ZeroDivisionError
    with workspace.held("again", nothing):
        pass


@pytest.mark.usefixtures("here")
def test_living_processes_of_dvc_are_named() -> None:
    """Readers and writers that live are named, each once; those that were killed are not."""
    living, dead = {"pid": os.getpid(), "cmd": "dvc repro"}, {"pid": dead_pid(), "cmd": "dvc pull"}
    parent = {"pid": os.getppid(), "cmd": "dvc status"}
    lock_of_dvc(write={"/a": living, "/b": living, "/c": dead}, read={"/d": [dead, parent], "/e": [living], "/f": []})
    assert {*map(str, workspace.dvc_holders())} == {
        f"`dvc repro` (PID {os.getpid()})",
        f"`dvc status` (PID {os.getppid()})",
    }
    assert len(workspace.dvc_holders()) == 2


@pytest.mark.usefixtures("here")
def test_without_a_readable_lock_nobody_is_named() -> None:
    """No lock file, an empty one and one that a killed process has left half written name nobody."""
    assert workspace.dvc_holders() == []
    for text in ("", "{}", '{"write": {"/a": {"pid": 1'):
        Path(".dvc/tmp/rwlock").write_text(text)
        assert workspace.dvc_holders() == []


@pytest.mark.usefixtures("here")
def test_a_number_that_was_given_anew_is_no_holder() -> None:
    """A process that is younger than DVC's lock file is not the one that was killed and had its number."""
    lock_of_dvc(write={"/a": {"pid": os.getpid(), "cmd": "dvc repro"}}, read={})
    os.utime(".dvc/tmp/rwlock", (10**9, 10**9))
    assert workspace.dvc_holders() == []


@pytest.mark.reliability(
    "killed", "what a killed DVC left in its lock file, also half written", "the next flow run removes it and goes on"
)
@pytest.mark.usefixtures("here")
def test_dead_holders_are_forgotten() -> None:
    """What killed processes noted goes from DVC's lock file, what living ones noted stays."""
    living, dead = {"pid": os.getpid(), "cmd": "dvc repro"}, {"pid": dead_pid(), "cmd": "dvc pull"}
    lock_of_dvc(write={"/a": living, "/b": dead}, read={"/c": [dead, living], "/d": [dead]})
    workspace.forget_dead_holders()
    assert json.loads(Path(".dvc/tmp/rwlock").read_text()) == {"write": {"/a": living}, "read": {"/c": [living]}}


@pytest.mark.reliability(
    "killed", "what a killed DVC left in its lock file, also half written", "the next flow run removes it and goes on"
)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("left", [None, "", '{"write": {'])
def test_a_lock_that_a_killed_dvc_left_half_written_goes(left: str | None) -> None:
    """A lock file that no DVC could read stands in nobody's way any more; one that is not there is not made."""
    if left is not None:
        Path(".dvc/tmp/rwlock").write_text(left)
    workspace.forget_dead_holders()
    assert not Path(".dvc/tmp/rwlock").exists()


@pytest.mark.usefixtures("project")
def test_a_running_dvc_is_named() -> None:
    """The DVC that runs a stage in the workspace is among the holders, and is none when it is done."""
    with someone_reproducing("download") as running:
        (holder,) = workspace.dvc_holders()
        assert holder.pid == running.pid
        assert "repro --single-item download" in holder.work
    assert workspace.dvc_holders() == []


@pytest.mark.reliability("two at once", "two `dvc repro`", "the second refuses at once, naming the first's PID")
@pytest.mark.usefixtures("project")
def test_a_second_dvc_is_turned_away() -> None:
    """Beside a `dvc repro` another one ends at once, with the first's number; what the first makes is whole."""
    with someone_reproducing("download") as first:
        command = [sys.executable, "-m", "dvc", "repro"]
        second = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, check=False)
        assert second.returncode == 255
        assert f"(PID {first.pid})" in second.stderr
        Path("go").touch()
        assert first.wait(60) == 0
    assert "Stage 'download' didn't change" in dvc("repro", "--single-item", "download")


@pytest.mark.usefixtures("here")
def test_what_an_earlier_run_started_is_ended() -> None:
    """A process with this workspace's mark is ended, with its children, and named."""
    with sleeping(workspace.environment() | {"DVC_STAGE": "split"}) as left:
        ended = workspace.end_leftovers()
        assert Holder(left.pid, "split") in ended
        assert processes.members(left.pid) == []
    assert workspace.end_leftovers() == []


@pytest.mark.usefixtures("here")
def test_another_workspace_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that a run in another clone started is not touched."""
    (tmp_path / "another").mkdir()
    with monkeypatch.context() as there:
        there.chdir(tmp_path / "another")
        marked = workspace.environment()
    orphaned = {"DVC_STAGE": "split", "DVC_ROOT": str(tmp_path / "another")}
    with sleeping(marked) as run, sleeping(orphaned) as stage:
        assert workspace.end_leftovers() == []
        assert run.poll() is None
        assert stage.poll() is None


@pytest.mark.reliability(
    "two at once",
    "a flow run beside a stage whose DVC was killed",
    "the flow ends the stage before it begins, and says so",
)
@pytest.mark.usefixtures("project")
def test_a_stage_outlives_its_dvc_only_until_the_next_run() -> None:
    """A stage whose DVC works is left alone; once that was killed, the stage is ended."""
    with someone_reproducing("download") as running:
        assert workspace.end_leftovers() == []
        family = psutil.Process(running.pid).children(recursive=True)  # with its shell, where that does not give way
        running.kill()
        running.wait()
        assert len(processes.members(running.pid)) == len(family) > 0
        assert set(workspace.end_leftovers()) == {(each.pid, "download") for each in family}
        assert processes.members(running.pid) == []


@pytest.mark.usefixtures("here")
def test_a_stage_is_not_ended_on_a_guess() -> None:
    """Where DVC's lock file cannot be read, nobody knows whether a stage has lost its DVC, and it is left alone."""
    Path(".dvc/tmp/rwlock").write_text('{"write": {')
    with sleeping({"DVC_STAGE": "split", "DVC_ROOT": str(Path.cwd())}) as stage:
        assert workspace.end_leftovers() == []
        assert stage.poll() is None


@pytest.mark.usefixtures("here")
def test_a_run_does_not_end_itself() -> None:
    """A run that has the mark itself, as has the shell that started it, ends neither."""
    result = subprocess.run(
        ["/bin/sh", "-c", f"'{sys.executable}' -c '{ENDING}' && echo alive"],
        env=workspace.environment() | {"PYTHONPATH": str(ROOT)},
        process_group=0,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "[]\nalive\n"), result.stderr


@pytest.mark.usefixtures("here")
def test_ending_an_orphan_spares_who_ends_it() -> None:
    """An orphan in the group of the run itself, as in a script without job control, is ended and the run goes on."""
    result = subprocess.run(
        [sys.executable, "-c", IN_ONE_GROUP],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        process_group=0,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr
