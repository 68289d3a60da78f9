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
from tests.flows.conftest import ROOT, SECONDS, dvc, dvc_repro_running, number, set_number, wait

HOLDING = """\
import sys
from flows import workspace

with workspace.exclusive("flow run brave-otter", print):
    print("held", flush=True)
    sys.stdin.readline()
"""
ENDING = """\
from flows import workspace

print(workspace.terminate_orphans(), flush=True)
"""
IN_ONE_GROUP = """\
import os, subprocess, sys
from flows import workspace

orphan = subprocess.Popen(["sleep", "60"], env=os.environ | {"DVC_STAGE": "split", "DVC_ROOT": os.getcwd()})
print(workspace.terminate_orphans() == [(orphan.pid, "split")], orphan.poll() is not None, flush=True)
"""


def nothing(line: str) -> None:
    """Fail on any line that is logged."""
    raise AssertionError(line)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, and processes that ignore SIGTERM are killed soon."""
    monkeypatch.setattr(workspace, "_PAUSE", 0.02)
    monkeypatch.setattr(workspace, "_READS", 2)
    monkeypatch.setattr(processes, "GRACE", 0.5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without a project; the current folder."""
    folder = tmp_path / "with a space"
    (folder / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def another_run() -> Iterator["subprocess.Popen[bytes]"]:
    """Run another process that holds the workspace until a line is sent to it."""
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
    """Run a process and its child with some variables during the block, in a process group of their own."""
    command = ["/bin/sh", "-c", "sleep 60 & echo up; wait"]
    with subprocess.Popen(command, env=os.environ | variables, process_group=0, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        try:
            yield process
        finally:
            processes.terminate_group(process.pid)


def dead_pid() -> int:
    """Return the PID of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def write_dvc_lock(*, write: dict[str, object], read: dict[str, object]) -> None:
    """Write DVC's lock file: who writes and who reads which path."""
    Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": write, "read": read}))


@pytest.mark.usefixtures("here")
def test_a_free_workspace_is_held_at_once() -> None:
    """Two runs one after the other do not wait."""
    for work in ("first", "second"):
        with workspace.exclusive(work, nothing):
            pass


def test_waiting_is_logged_once() -> None:
    """However long it takes, one line is logged; a process without a name is "another process"."""
    output: list[str] = []
    attempts = iter([False, False, False, True])
    workspace.wait_until_free(lambda: next(attempts), list, output.append)
    assert output == ["Waiting for another process to finish with the workspace."]


@pytest.mark.reliability("two at once", "two flow runs", "the second waits, names the first, and finds the work done")
@pytest.mark.usefixtures("here")
def test_a_run_waits_for_another_by_name() -> None:
    """The second run logs once which run it waits for, and goes on when that has ended."""
    output: list[str] = []
    with another_run() as other:

        def release(line: str) -> None:
            output.append(line)
            assert other.stdin
            other.stdin.write(b"\n")
            other.stdin.flush()

        with workspace.exclusive("mine", release):
            assert other.wait(SECONDS) == 0
    assert output == [f"Waiting for flow run brave-otter (PID {other.pid}) to finish with the workspace."]


@pytest.mark.reliability("two at once", "a flow run that has waited for an hour", "ends; the message names the other")
@pytest.mark.usefixtures("here")
def test_waiting_for_a_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `LONGEST_WAIT`, the error names the run that holds the workspace and what to do."""
    monkeypatch.setattr(workspace, "LONGEST_WAIT", 0.1)
    with (
        another_run() as other,
        pytest.raises(workspace.WorkspaceBusyError) as busy,
        workspace.exclusive("mine", lambda _: None),
    ):
        raise AssertionError
    assert str(busy.value) == (
        f"The workspace is in use by flow run brave-otter (PID {other.pid}). Waited 0 s. Run again when that has ended."
    )


@pytest.mark.usefixtures("here")
def test_a_killed_run_frees_the_workspace() -> None:
    """A run killed by SIGKILL no longer holds the workspace; its name is replaced by that of the next run."""
    with another_run() as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with workspace.exclusive("next", nothing):
            assert json.loads(Path(".dvc/tmp/pipeline.json").read_text()) == {"pid": os.getpid(), "work": "next"}


@pytest.mark.usefixtures("here")
def test_a_failed_run_frees_the_workspace() -> None:
    """The workspace is free again after an exception."""
    with pytest.raises(ZeroDivisionError), workspace.exclusive("mine", nothing):
        raise ZeroDivisionError
    with workspace.exclusive("again", nothing):
        pass


@pytest.mark.usefixtures("here")
def test_running_processes_of_dvc_are_named() -> None:
    """Readers and writers that run are named, each once; those that were killed are not."""
    living, dead = {"pid": os.getpid(), "cmd": "dvc repro"}, {"pid": dead_pid(), "cmd": "dvc pull"}
    parent = {"pid": os.getppid(), "cmd": "dvc status"}
    write_dvc_lock(
        write={"/a": living, "/b": living, "/c": dead}, read={"/d": [dead, parent], "/e": [living], "/f": []}
    )
    assert {*map(str, workspace.dvc_holders())} == {
        f"`dvc repro` (PID {os.getpid()})",
        f"`dvc status` (PID {os.getppid()})",
    }
    assert len(workspace.dvc_holders()) == 2


@pytest.mark.usefixtures("here")
def test_without_a_readable_lock_file_no_process_is_named() -> None:
    """A missing, an empty and an incomplete lock file name no process."""
    assert workspace.dvc_holders() == []
    for text in ("", "{}", '{"write": {"/a": {"pid": 1'):
        Path(".dvc/tmp/rwlock").write_text(text)
        assert workspace.dvc_holders() == []


@pytest.mark.usefixtures("here")
def test_a_reused_pid_is_no_holder() -> None:
    """A process that started after DVC's lock file was written has the PID of one that was killed."""
    write_dvc_lock(write={"/a": {"pid": os.getpid(), "cmd": "dvc repro"}}, read={})
    os.utime(".dvc/tmp/rwlock", (10**9, 10**9))
    assert workspace.dvc_holders() == []


@pytest.mark.reliability(
    "killed", "entries of a killed DVC in its lock file, also incomplete", "the next run removes them and goes on"
)
@pytest.mark.usefixtures("here")
def test_entries_of_dead_processes_are_removed() -> None:
    """The entries of killed processes are removed from DVC's lock file, those of running ones stay."""
    living, dead = {"pid": os.getpid(), "cmd": "dvc repro"}, {"pid": dead_pid(), "cmd": "dvc pull"}
    write_dvc_lock(write={"/a": living, "/b": dead}, read={"/c": [dead, living], "/d": [dead]})
    workspace.remove_dead_holders()
    assert json.loads(Path(".dvc/tmp/rwlock").read_text()) == {"write": {"/a": living}, "read": {"/c": [living]}}


@pytest.mark.reliability(
    "killed", "entries of a killed DVC in its lock file, also incomplete", "the next run removes them and goes on"
)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("left", [None, "", '{"write": {'])
def test_an_incomplete_lock_file_is_removed(left: str | None) -> None:
    """A lock file that DVC could not read is removed; a missing one is not created."""
    if left is not None:
        Path(".dvc/tmp/rwlock").write_text(left)
    workspace.remove_dead_holders()
    assert not Path(".dvc/tmp/rwlock").exists()


@pytest.mark.usefixtures("here")
def test_a_zombie_is_no_holder() -> None:
    """A process that has ended holds nothing, even if its parent has not noticed yet."""
    with subprocess.Popen(["true"]) as zombie:
        wait(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
        write_dvc_lock(write={"/a": {"pid": zombie.pid, "cmd": "dvc repro"}}, read={})
        assert workspace.dvc_holders() == []


@pytest.mark.reliability(
    "killed", "a killed DVC whose PID another process has now, as in a new container", "the next run goes on"
)
def test_a_reused_pid_does_not_block_dvc(project: Path) -> None:
    """DVC itself refuses to run beside a process with the PID of a killed one; `make run` removes that entry first."""
    set_number("download", 3)
    with sleeping({}) as other:
        write_dvc_lock(write={f"{project}/artifacts/download/made": {"pid": other.pid, "cmd": "dvc repro"}}, read={})
        os.utime(".dvc/tmp/rwlock", (10**9, 10**9))  # before the other process started
        repro = [sys.executable, "-m", "dvc", "repro", "--single-item", "download"]
        refused = subprocess.run(repro, env=processes.environment(), capture_output=True, text=True, check=False)
        assert (refused.returncode, f"(PID {other.pid})" in refused.stderr) == (255, True)
        subprocess.run([sys.executable, "-m", "flows.preconditions"], check=True)
        dvc("repro", "--single-item", "download")
        assert other.poll() is None
    assert number("download") == 3


def test_without_dvc_nothing_is_removed(tmp_path: Path) -> None:
    """In a folder where DVC has never run, the command only writes a file of corrections, on which a stage depends."""
    command = [sys.executable, "-m", "flows.preconditions"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "corrections.csv"]


@pytest.mark.usefixtures("project")
def test_a_running_dvc_is_named() -> None:
    """The DVC that runs a stage in the workspace is a holder until it ends."""
    with dvc_repro_running("download") as running:
        (holder,) = workspace.dvc_holders()
        assert holder.pid == running.pid
        assert "repro --single-item download" in holder.work
    assert workspace.dvc_holders() == []


@pytest.mark.reliability(
    "two at once", "two `dvc repro`", "the second refuses at once; the message has the first's PID"
)
@pytest.mark.usefixtures("project")
def test_a_second_dvc_is_refused() -> None:
    """Beside a `dvc repro` another one ends at once, with the first's PID; the first one's result is complete."""
    with dvc_repro_running("download") as first:
        command = [sys.executable, "-m", "dvc", "repro"]
        second = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, check=False)
        assert second.returncode == 255
        assert f"(PID {first.pid})" in second.stderr
        Path("go").touch()
        assert first.wait(SECONDS) == 0
    assert "Stage 'download' didn't change" in dvc("repro", "--single-item", "download")


@pytest.mark.usefixtures("here")
def test_processes_of_an_earlier_run_are_terminated() -> None:
    """A process with this workspace's mark is terminated, with its children, and named."""
    with sleeping(workspace.environment() | {"DVC_STAGE": "split"}) as left:
        ended = workspace.terminate_orphans()
        assert Holder(left.pid, "split") in ended
        assert processes.members(left.pid) == []
    assert workspace.terminate_orphans() == []


@pytest.mark.usefixtures("here")
def test_processes_of_another_workspace_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that a run in another clone started is not terminated, nor a stage that names no clone."""
    (tmp_path / "another").mkdir()
    with monkeypatch.context() as there:
        there.chdir(tmp_path / "another")
        marked = workspace.environment()
    orphaned = {"DVC_STAGE": "split", "DVC_ROOT": str(tmp_path / "another")}
    with sleeping(marked) as run, sleeping(orphaned) as stage, sleeping({"DVC_STAGE": "split"}) as alone:
        assert workspace.terminate_orphans() == []
        assert [process.poll() for process in (run, stage, alone)] == [None] * 3


@pytest.mark.reliability(
    "two at once",
    "a flow run beside a stage whose DVC was killed",
    "the flow terminates the stage first, and logs it",
)
@pytest.mark.usefixtures("project")
def test_the_next_run_terminates_a_stage_whose_dvc_was_killed() -> None:
    """A stage whose DVC runs goes on; after that was killed, the stage is terminated."""
    with dvc_repro_running("download") as running:
        assert workspace.terminate_orphans() == []
        family = psutil.Process(running.pid).children(recursive=True)  # with its shell, where that does not give way
        running.kill()
        running.wait()
        assert len(processes.members(running.pid)) == len(family) > 0
        assert set(workspace.terminate_orphans()) == {(member.pid, "download") for member in family}
        assert processes.members(running.pid) == []


@pytest.mark.usefixtures("here")
def test_a_stage_is_not_terminated_on_a_guess() -> None:
    """If DVC's lock file cannot be read, a stage may still have its DVC, and goes on."""
    Path(".dvc/tmp/rwlock").write_text('{"write": {')
    with sleeping({"DVC_STAGE": "split", "DVC_ROOT": str(Path.cwd())}) as stage:
        assert workspace.terminate_orphans() == []
        assert stage.poll() is None


@pytest.mark.usefixtures("here")
def test_a_run_does_not_terminate_itself() -> None:
    """A run that has the mark itself, like the shell that started it, terminates neither."""
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
def test_terminating_an_orphan_in_its_own_group_spares_the_run() -> None:
    """An orphan in the process group of the run, as in a script without job control, is terminated; the run goes on."""
    result = subprocess.run(
        [sys.executable, "-c", IN_ONE_GROUP],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        process_group=0,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr
