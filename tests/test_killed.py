"""Stages and DVC, killed or ended by signals at any moment: the next `dvc repro` makes what it would have made."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from flows import sandbox
from tests.conftest import Reproduced, copy_workspace, dvc
from transfer.runtime import files

DATA = ("download", "fetch_weights", "subsample", "split")
SEED = 5  # of the random moments
KILLS = 3  # of each data stage
SHELLS = ["/bin/sh", "/bin/bash"]  # DVC runs a stage in SHELL, or in /bin/sh, which may stay between the two
IN_PLACE = ("dvc.lock", ".dvc/tmp/rwlock")  # files that DVC does not write atomically
HALTED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)  # the latter if another process traces it
LAST_LINE = "Completed work is kept; run the same command to go on."

pytestmark = pytest.mark.long
Stopped = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]

signals_end_stages = pytest.mark.reliability(
    "killed",
    "Ctrl-C, SIGTERM or a closed terminal, at any moment of a stage",
    "ends within 10 s; the last line tells that completed work is kept; exit code 130, 143 or 129",
)


network_is_written = pytest.mark.reliability(
    "killed",
    "`kill -9` of a training run while it writes its network",
    "plain `dvc repro` makes the same bytes as an undisturbed run, and no temporary file is left",
)
training_goes_on = pytest.mark.reliability(
    "killed", "a killed training run", "the next run goes on after the last complete epoch"
)


@pytest.fixture
def moments() -> random.Random:
    """Return the generator of moments, the same in each run."""
    return random.Random(SEED)  # noqa: S311 - not for secrets


@pytest.fixture
def workspace(reproduced: Reproduced, tmp_path: Path) -> Path:
    """Return a copy of the workspace in which the demo has run."""
    folder = tmp_path / "with a space"
    copy_workspace(reproduced.workspace, folder)
    return folder


def forget(workspace: Path, *stages: str) -> None:
    """Remove stages from dvc.lock, as if they had never run, and their outputs, as DVC does before it runs them."""
    yaml = YAML(typ="safe", pure=True)
    lock = yaml.load(workspace / "dvc.lock")
    for name in stages:
        lock["stages"].pop(name, None)
        shutil.rmtree(workspace / "artifacts" / name, ignore_errors=True)
    yaml.dump(lock, workspace / "dvc.lock")
    shutil.rmtree(workspace / ".dvc/cache/runs", ignore_errors=True)


def recompute(workspace: Path, *stages: str) -> str:
    """Run `dvc repro` of these stages, which must run all of them and restore none from its cache; return its output.

    Stages after a training run, which would run again as a history has seconds, are left alone.
    """
    assert not (workspace / ".dvc/cache/runs").exists()
    output = dvc(workspace, "repro", *stages)
    assert sorted(re.findall(r"Running stage '(\w+)'", output)) == sorted(stages)
    assert "is cached" not in output
    return output


def outputs(workspace: Path) -> dict[str, object]:
    """Return the sha256 of each file in `artifacts/`, hidden ones too; of histories the content without seconds."""
    return {
        str(path.relative_to(workspace)): epochs(path) if path.name == "history.csv" else files.sha256(path)
        for path in (workspace / "artifacts").rglob("*")
        if path.is_file()
    }


def epochs(history: Path) -> list[dict[str, str]]:
    """Return the rows of a history without the seconds, which differ from run to run."""
    with history.open(newline="") as file:
        return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in csv.DictReader(file)]


@contextmanager
def started(workspace: Path, *command: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a Python module in the workspace, in a process group of its own; kill all its processes after the block."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env=sandbox.environment() | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            for other in processes_in(workspace):
                with suppress(psutil.NoSuchProcess):
                    other.kill()


def stage(workspace: Path, name: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Start a stage as DVC does."""
    forget(workspace, name)
    return started(workspace, "tasks", name)


def is_stopped(file: Path) -> bool:
    """Return whether the process whose number is in a file is stopped, and has not ended."""
    number = file.read_text().strip() if file.exists() else ""
    with suppress(psutil.NoSuchProcess):
        return bool(number) and psutil.Process(int(number)).status() in HALTED
    return False


def threads(file: Path) -> list[str]:
    """Return the number, name and state of each thread of the process whose number is in a file, on Linux."""
    number = file.read_text().strip() if file.exists() else "none"
    return [stat.read_text()[:40] for stat in Path("/proc", number, "task").glob("*/stat")]


STOPPING = """\
import os, signal, sys
from fnmatch import fnmatchcase
remaining = int(os.environ["STOP_AFTER"])
def stop(event, arguments):
    global remaining
    if event in ("import", "open", "os.rename"):
        name = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(name, str | os.PathLike) and fnmatchcase(f"{event} {os.fspath(name)}", os.environ["STOP_AT"]):
            remaining -= 1
            if not remaining:
                with open(os.environ["STOPPED"], "w") as file:
                    print(os.getpid(), file=file)
                os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(stop)
"""


@pytest.fixture
def stopped(workspace: Path, tmp_path: Path) -> Stopped:
    """Return a function that starts a command and waits until it, or a stage that it runs, has stopped itself.

    A process stops before it imports a module, opens a file or renames one, if that matches `at` (`import x`,
    `open */x`, `os.rename */x`) for the `after`-th time. So it cannot end before the test kills it.
    """
    (tmp_path / "stopping").mkdir()
    (tmp_path / "stopping/sitecustomize.py").write_text(STOPPING)

    @contextmanager
    def start(*command: str, at: str, after: int = 1) -> Iterator["subprocess.Popen[str]"]:
        found = tmp_path / "stopping/stopped"
        found.unlink(missing_ok=True)
        variables = {"PYTHONPATH": str(found.parent), "STOPPED": str(found), "STOP_AT": at, "STOP_AFTER": str(after)}
        with started(workspace, *command, **variables) as process:
            deadline = time.monotonic() + 300
            while not is_stopped(found):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline, threads(found)
                time.sleep(0.02)
            yield process

    return start


def killed(process: "subprocess.Popen[str]") -> str:
    """Kill a process and return its standard error."""
    process.kill()
    stderr = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL
    return stderr


def ending(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, list[str]]:
    """Send a signal to a stopped process; return its exit code and lines on standard error, within a minute."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr.splitlines()


def processes_in(workspace: Path) -> list[psutil.Process]:
    """Return the processes whose current folder is the workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == os.path.realpath(workspace) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.reliability(
    "killed",
    "`kill -9` of a data stage, at random moments",
    "plain `dvc repro` makes the same bytes as an undisturbed run, and no temporary file is left",
)
def test_a_data_stage_killed_at_any_moment(workspace: Path, moments: random.Random) -> None:
    """Each of the stages that fetch and select photographs is killed several times, then run by DVC."""
    expected = outputs(workspace)
    for name in reversed(DATA):  # each needs the outputs of those before it
        start = time.monotonic()
        with stage(workspace, name) as undisturbed:
            assert undisturbed.wait() == 0
        seconds = time.monotonic() - start
        kills = 0
        while kills < KILLS:
            with stage(workspace, name) as process:
                time.sleep(moments.uniform(0, seconds))
                process.kill()
                stderr = process.communicate()[1]
            assert process.returncode in (0, -signal.SIGKILL), stderr
            kills += process.returncode == -signal.SIGKILL
            seconds *= 1 if process.returncode else 0.8  # it ended before the kill
    recompute(workspace, *DATA)
    assert outputs(workspace) == expected, f"with SEED = {SEED}"


@pytest.mark.reliability(
    "killed",
    "`kill -9` of the extraction, at a random row and while it writes",
    "plain `dvc repro` makes the same bytes as an undisturbed run, and no temporary file is left",
)
@pytest.mark.reliability("killed", "the extraction continues after a kill", "no complete row is computed again")
@signals_end_stages
def test_the_extraction_ended_at_any_moment(workspace: Path, moments: random.Random, stopped: Stopped) -> None:
    """Ended by a signal after some rows, and killed before its last step, the extraction computes each row once."""
    expected, cache = outputs(workspace), workspace / ".cache/features"
    total = len(list(cache.glob("*/*.npz")))
    shutil.rmtree(cache)
    row = moments.randrange(1, total // 2)
    forget(workspace, "extract_features")
    with stopped("tasks", "extract_features", at="os.rename *.npz", after=row) as process:
        code, lines = ending(process, signal.SIGTERM)
    assert (code, lines[-1]) == (143, f"Terminated. {LAST_LINE}")
    kept = len(list(cache.glob("*/*.npz")))
    assert row <= kept < total
    forget(workspace, "extract_features")
    with stopped("tasks", "extract_features", at="os.rename artifacts/extract_features") as process:
        assert f"{total} rows, {kept} of them computed before." in killed(process)
    assert f"{total} rows, {total} of them computed before." in recompute(workspace, "extract_features")
    assert outputs(workspace) == expected, f"with SEED = {SEED}"


@network_is_written
@training_goes_on
@signals_end_stages
def test_the_training_of_a_head_ended_at_any_moment(workspace: Path, stopped: Stopped) -> None:
    """Ended by a signal in an epoch, and killed before its last step, training continues after the last epoch."""
    expected, state = outputs(workspace), workspace / ".cache/training/train_head"
    forget(workspace, "train_head")
    with stopped("tasks", "train_head", at="os.rename */epoch-0002") as process:
        code, lines = ending(process, signal.SIGINT)
    assert code == 130
    assert lines[-1].endswith(LAST_LINE)
    kept = [int(folder.name.removeprefix("epoch-")) for folder in state.glob("*/epoch-*")]
    stderr = kill_before_the_last_step(workspace, stopped, "train_head", "head.keras")
    assert re.findall(r"goes on after epoch (\d+)", stderr) == [str(max(kept))]
    assert "train_head: goes on after epoch 2." in recompute(workspace, "train_head")
    assert outputs(workspace) == expected


@network_is_written
@training_goes_on
def test_fine_tuning_killed_before_its_last_step(workspace: Path, stopped: Stopped) -> None:
    """Killed after its last epoch, fine-tuning trains no epoch again, and writes the same files."""
    expected = outputs(workspace)
    assert "goes on" not in kill_before_the_last_step(workspace, stopped, "fine_tune", "model.keras")
    assert "fine_tune: goes on after epoch 1." in recompute(workspace, "fine_tune")
    assert outputs(workspace) == expected


def kill_before_the_last_step(workspace: Path, stopped: Stopped, name: str, network: str) -> str:
    """Run a training stage and kill it before it writes its network; return its standard error."""
    forget(workspace, name)
    with stopped("tasks", name, at=f"os.rename artifacts/{name}/{network}") as process:
        return killed(process)


@pytest.mark.reliability(
    "killed",
    "`kill -9` of the evaluation while it writes",
    "plain `dvc repro` makes the same bytes as an undisturbed run, and no temporary file is left",
)
@signals_end_stages
def test_the_evaluation_ended_at_any_moment(workspace: Path, stopped: Stopped) -> None:
    """Ended by a signal during its imports, and killed before its last step, the evaluation runs again."""
    expected = outputs(workspace)
    forget(workspace, "evaluate")
    with stopped("tasks", "evaluate", at="import tensorflow") as process:
        assert ending(process, signal.SIGHUP) == (129, [f"The terminal was closed. {LAST_LINE}"])
    with stopped("tasks", "evaluate", at="os.rename artifacts/evaluate") as process:
        killed(process)
    recompute(workspace, "evaluate")
    assert outputs(workspace) == expected


def repro(workspace: Path) -> str:
    """Run plain `dvc repro`, again without a file that it cannot read, as docs/start.md advises; return its output."""
    command = [sys.executable, "-m", "dvc", "repro"]
    while True:
        result = subprocess.run(
            command, cwd=workspace, env=sandbox.environment(), capture_output=True, text=True, check=False
        )
        unreadable = [name for name in IN_PLACE if result.returncode and name in result.stderr]
        if not unreadable:
            assert result.returncode == 0, result.stderr
            return result.stdout
        (workspace / unreadable[0]).unlink()


@pytest.mark.reliability(
    "killed",
    "`kill -9` of `dvc repro`, at random moments",
    "plain `dvc repro` makes the same bytes as an undisturbed run; DVC may leave a test link of four bytes",
)
def test_dvc_killed_at_any_moment(workspace: Path, moments: random.Random) -> None:
    """Killed while it starts, in stages and between them, DVC leaves nothing that stops the next `dvc repro`."""
    expected = outputs(workspace)
    forget(workspace, *DATA)
    for _ in range(KILLS):
        with started(workspace, "dvc", "repro", DATA[-1]) as process:
            time.sleep(moments.uniform(1, 5))
            process.kill()
            process.wait()
    repro(workspace)
    for link in (workspace / "artifacts").rglob(".*.tmp"):
        assert link.read_text() == "test"  # by which DVC tries whether it can link
        link.unlink()
    assert outputs(workspace) == expected, f"with SEED = {SEED}"


@pytest.mark.reliability(
    "two at once",
    "`dvc repro` while a stage runs whose DVC was killed",
    "the stage ends within seconds, and the result is that of an undisturbed run",
)
@pytest.mark.parametrize("shell", SHELLS, ids=["sh", "bash"])
def test_a_stage_ends_before_the_next_dvc_runs_it(
    workspace: Path, stopped: Stopped, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """A `dvc repro` started right after a kill has the workspace to itself before it runs the stage."""
    monkeypatch.setenv("SHELL", shell)
    expected = outputs(workspace)
    forget(workspace, "extract_features")
    shutil.rmtree(workspace / ".cache/features")
    with stopped("dvc", "repro", at="import tensorflow") as process:
        os.killpg(process.pid, signal.SIGCONT)  # the kernel sends SIGHUP to a stopped process whose parent ends
        process.kill()
        process.wait()
        output = repro(workspace)
        assert process.communicate(timeout=60)[1].endswith(
            f"The DVC that started this stage has ended.\nTerminated. {LAST_LINE}\n"
        )
    assert "Running stage 'extract_features'" in output
    assert "is cached" not in output
    assert outputs(workspace) == expected


@signals_end_stages
@pytest.mark.parametrize(
    ("shell", "number"), zip(SHELLS, (signal.SIGTERM, signal.SIGINT), strict=True), ids=["sh-SIGTERM", "bash-SIGINT"]
)
def test_a_signal_ends_dvc_and_its_stage(
    workspace: Path, stopped: Stopped, monkeypatch: pytest.MonkeyPatch, *, number: signal.Signals, shell: str
) -> None:
    """Ctrl-C in a terminal reaches DVC and the stage, SIGTERM only DVC: both end."""
    monkeypatch.setenv("SHELL", shell)
    forget(workspace, "evaluate")
    with stopped("dvc", "repro", at="import tensorflow") as process:
        os.killpg(process.pid, signal.SIGCONT)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode in (255, -signal.SIGTERM)
    assert f"{LAST_LINE}\n" in stderr
    assert processes_in(workspace) == []


@pytest.mark.reliability(
    "killed",
    "`kill -9` of `dvc repro` at the instant at which it writes dvc.lock",
    "DVC names the file; once it is removed, DVC restores everything from its cache",
)
@pytest.mark.parametrize(
    ("name", "content"),
    [("dvc.lock", ""), ("dvc.lock", "schema: '2.0'\nstages:\n  download:\n    cmd"), (".dvc/tmp/rwlock", "{")],
    ids=["empty lock", "half a lock", "half an rwlock"],
)
def test_an_incomplete_file_of_dvc_is_named(workspace: Path, name: str, content: str) -> None:
    """A file that DVC writes in place may be unreadable after a kill; the next DVC names it, and it can be removed."""
    expected = outputs(workspace)
    shutil.rmtree(workspace / "artifacts/split")
    (workspace / name).write_text(content)
    with started(workspace, "dvc", "repro") as process:
        assert name in process.communicate(timeout=300)[1]
    assert process.returncode == 255
    assert "Running stage" not in repro(workspace)
    assert outputs(workspace) == expected


def edit_proportion(workspace: Path) -> None:
    """Set another proportion of validation photographs in params.yaml."""
    params = workspace / "params.yaml"
    before, section, after = params.read_text().partition("\nsplit:")
    params.write_text(before + section + re.sub(r"validation: [\d.]+", "validation: 0.4", after, count=1))


def edit_code(workspace: Path) -> None:
    """Add a line to the code of the stage `split`."""
    with (workspace / "tasks/split.py").open("a") as code:
        code.write("# edited\n")


@pytest.mark.reliability(
    "tampered",
    "a parameter or code changes while `dvc repro` runs the stage",
    "exit 75; the change is named, dvc.lock records nothing, and the next run uses the new one",
)
@pytest.mark.parametrize(
    ("change", "received"),
    [(edit_proportion, "a change of `split.validation`"), (edit_code, "a change of `tasks/split.py`")],
    ids=["parameter", "code"],
)
def test_a_dependency_changes_while_dvc_runs_the_stage(
    workspace: Path, stopped: Stopped, *, change: Callable[[Path], None], received: str
) -> None:
    """The stage's result is not recorded as one of the changed dependency; `dvc repro` computes that one."""
    manifest = workspace / "artifacts/split/manifest.csv"
    before = manifest.read_text().count(",validation")
    forget(workspace, "split")
    with stopped("dvc", "repro", "-s", "split", at="os.rename artifacts/split/manifest.csv") as process:
        change(workspace)
        os.killpg(process.pid, signal.SIGCONT)
        stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 255
    assert f"Received: {received}. Its outputs were removed; run again.\n" in stderr
    assert "exited with 75" in stderr
    assert not [path for path in manifest.parent.rglob("*") if path.is_file()]
    assert "  split:" not in (workspace / "dvc.lock").read_text()
    assert "Running stage 'split'" in dvc(workspace, "repro", "-s", "split")
    assert (manifest.read_text().count(",validation") > before) == (change is edit_proportion)
