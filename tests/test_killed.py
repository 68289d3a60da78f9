"""Stages and DVC killed and asked to end, wherever they are: what `dvc repro` makes then is what it would have made."""

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

from flows import demo
from tests.conftest import Reproduced, dvc
from transfer.runtime import files

DATA = ("download", "fetch_weights", "subsample", "split")
SEED = 5  # of the moments
KILLS = 4  # of each data stage
SHELLS = ["/bin/sh", "/bin/bash"]  # the first may stay between DVC and a stage: DVC's where SHELL is not set
IN_PLACE = ("dvc.lock", ".dvc/tmp/rwlock")  # as DVC writes these

Held = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]

asked_to_end = pytest.mark.reliability(
    "killed",
    "Ctrl-C, SIGTERM or a closed terminal, at any moment of a stage",
    "ends within 10 s; the last line says that what was complete is kept; exit code 130, 143 or 129",
)


@pytest.fixture
def moments() -> random.Random:
    """When to kill, the same each time."""
    return random.Random(SEED)  # noqa: S311 - no secrets


@pytest.fixture
def workspace(reproduced: Reproduced, tmp_path: Path) -> Path:
    """A copy of the workspace in which the demo has run.

    It takes no time: hard links, which stages and DVC replace, but for what DVC writes in place.
    """
    folder = tmp_path / "with a space"
    shutil.copytree(reproduced.workspace, folder, copy_function=os.link, ignore=shutil.ignore_patterns("tmp"))
    (folder / ".dvc/tmp").mkdir()
    for name in ("dvc.lock", "params.yaml"):
        (folder / name).unlink()
        shutil.copy2(reproduced.workspace / name, folder / name)
    return folder


def due(workspace: Path, *stages: str) -> None:
    """Have DVC know nothing of stages, as if they had never run, and remove what they made, as DVC does first."""
    yaml = YAML(typ="safe", pure=True)
    lock = yaml.load(workspace / "dvc.lock")
    for name in stages:
        lock["stages"].pop(name, None)
        shutil.rmtree(workspace / "artifacts" / name, ignore_errors=True)
    yaml.dump(lock, workspace / "dvc.lock")
    shutil.rmtree(workspace / ".dvc/cache/runs", ignore_errors=True)


def made(workspace: Path) -> dict[str, object]:
    """What lies in `artifacts/`, hidden or not, by its sha256; of histories all but the seconds that epochs took."""
    return {
        str(path.relative_to(workspace)): timeless(path) if path.name == "history.csv" else files.sha256(path)
        for path in (workspace / "artifacts").rglob("*")
        if path.is_file()
    }


def timeless(history: Path) -> list[dict[str, str]]:
    """A history without what no two runs share."""
    with history.open(newline="") as file:
        return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in csv.DictReader(file)]


@contextmanager
def started(workspace: Path, *command: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Have a process of Python's in the workspace, in a group of its own, of which nothing is left afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env=demo.environment() | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            for left in working(workspace):
                with suppress(psutil.NoSuchProcess):
                    left.kill()


def stage(workspace: Path, name: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Have a stage, as DVC starts it."""
    due(workspace, name)
    return started(workspace, "tasks", name)


def is_held(process: psutil.Process) -> bool:
    """Whether a process is stopped, and not at its end."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


HOLDING = """\
import os, signal, sys
from fnmatch import fnmatchcase
left = int(os.environ["HELD_AFTER"])
def hold(event, arguments):
    global left
    if event in ("import", "open", "os.rename"):
        name = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(name, str | os.PathLike) and fnmatchcase(f"{event} {os.fspath(name)}", os.environ["HELD_AT"]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(hold)
"""


@pytest.fixture
def held(workspace: Path, tmp_path: Path) -> Held:
    """Have a command, and wait until it, or a stage that it runs, is held: so it cannot be at its end meanwhile.

    Held is what is about to import a module, to open a file or to give one its name, if that fits `at` (`import x`,
    `open */x`, `os.rename */x`), or what is about to do so for the time that `after` counts.
    """
    (tmp_path / "holding").mkdir()
    (tmp_path / "holding/sitecustomize.py").write_text(HOLDING)

    @contextmanager
    def hold(*command: str, at: str, after: int = 1) -> Iterator["subprocess.Popen[str]"]:
        variables = {"PYTHONPATH": str(tmp_path / "holding"), "HELD_AT": at, "HELD_AFTER": str(after)}
        with started(workspace, *command, **variables) as process:
            deadline = time.monotonic() + 120
            while not any(map(is_held, working(workspace))):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process

    return hold


def killed(process: "subprocess.Popen[str]") -> str:
    """Kill a process; what it had said."""
    process.kill()
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL
    return said


def asked(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, list[str]]:
    """Ask a process that is held to end, for which it has ten seconds; its exit code and lines."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=10)[1]
    return process.returncode, said.splitlines()


def working(workspace: Path) -> list[psutil.Process]:
    """The processes that run in the workspace."""
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
    "plain `dvc repro` makes the very bytes of an undisturbed run, and nothing is left beside them",
)
def test_data_stages_killed_anywhere(workspace: Path, moments: random.Random) -> None:
    """Each of the stages that bring and choose photographs is killed again and again, then made once more."""
    expected = made(workspace)
    for name in reversed(DATA):  # those before it are needed
        began = time.monotonic()
        with stage(workspace, name) as undisturbed:
            assert undisturbed.wait() == 0
        seconds = time.monotonic() - began
        kills = 0
        while kills < KILLS:
            with stage(workspace, name) as process:
                time.sleep(moments.uniform(0, seconds))
                process.kill()
                said = process.communicate()[1]
            assert process.returncode in (0, -signal.SIGKILL), said
            kills += process.returncode == -signal.SIGKILL
            seconds *= 1 if process.returncode else 0.8  # it was done before its moment came
    dvc(workspace, "repro")
    assert made(workspace) == expected, f"with SEED = {SEED}"


@pytest.mark.reliability(
    "killed",
    "`kill -9` of the extraction, at a random row and while it writes",
    "plain `dvc repro` makes the very bytes of an undisturbed run, and nothing is left beside them",
)
@pytest.mark.reliability("killed", "extraction goes on after it was killed", "no row that was whole is computed again")
@asked_to_end
def test_the_extraction_ended_anywhere(workspace: Path, moments: random.Random, held: Held) -> None:
    """Asked to end after some rows and killed in its last moments, the extraction computes each row once."""
    expected, memo = made(workspace), workspace / ".cache/features"
    total = len(list(memo.glob("*/*.npz")))
    shutil.rmtree(memo)
    row = moments.randrange(1, total // 2)
    due(workspace, "extract_features")
    with held("tasks", "extract_features", at="os.rename *.npz", after=row) as process:
        code, said = asked(process, signal.SIGTERM)
    assert (code, said[-1]) == (143, "Asked to end. What was complete is kept; run the same command to go on.")
    kept = len(list(memo.glob("*/*.npz")))
    assert row <= kept < total
    due(workspace, "extract_features")
    with held("tasks", "extract_features", at="os.rename artifacts/extract_features") as process:
        assert f"{total} rows, {kept} of them computed before." in killed(process)
    assert f"{total} rows, {total} of them computed before." in dvc(workspace, "repro")
    assert made(workspace) == expected, f"with SEED = {SEED}"


@pytest.mark.reliability(
    "killed",
    "`kill -9` of a training while it writes its network",
    "plain `dvc repro` makes the very bytes of an undisturbed run, and nothing is left beside them",
)
@pytest.mark.reliability("killed", "a killed training run", "the next run goes on after the last complete epoch")
@asked_to_end
@pytest.mark.parametrize(
    ("name", "network", "at", "number"),
    [
        ("train_head", "head.keras", "os.rename */epoch-0002", signal.SIGINT),
        ("fine_tune", "model.keras", "open */lock", signal.SIGTERM),
    ],
)
def test_a_training_ended_anywhere(
    workspace: Path, held: Held, *, name: str, network: str, at: str, number: signal.Signals
) -> None:
    """Asked to end in an epoch and killed in its last moments, a training goes on from the last whole epoch."""
    expected, state = made(workspace), workspace / ".cache/training" / name
    epochs = len(timeless(workspace / "artifacts" / name / "history.csv"))
    due(workspace, name)
    with held("tasks", name, at=at) as process:
        code, said = asked(process, number)
    assert code == 128 + number
    assert said[-1].endswith("What was complete is kept; run the same command to go on.")
    kept = [int(each.name.removeprefix("epoch-")) for each in state.glob("*/epoch-*")]
    due(workspace, name)
    with held("tasks", name, at=f"os.rename artifacts/{name}/{network}") as process:
        went_on = re.findall(r"goes on after epoch (\d+)", killed(process))
    assert went_on == ([str(max(kept))] if kept else [])
    assert f"{name}: goes on after epoch {epochs}." in dvc(workspace, "repro")
    assert made(workspace) == expected


@pytest.mark.reliability(
    "killed",
    "`kill -9` of the evaluation while it writes",
    "plain `dvc repro` makes the very bytes of an undisturbed run, and nothing is left beside them",
)
@asked_to_end
def test_the_evaluation_ended_anywhere(workspace: Path, held: Held) -> None:
    """Asked to end while it starts and killed in its last moments, the evaluation is made again."""
    expected = made(workspace)
    due(workspace, "evaluate")
    with held("tasks", "evaluate", at="import tensorflow") as process:
        assert asked(process, signal.SIGHUP) == (
            129,
            ["The terminal was closed. What was complete is kept; run the same command to go on."],
        )
    with held("tasks", "evaluate", at="os.rename artifacts/evaluate") as process:
        killed(process)
    dvc(workspace, "repro")
    assert made(workspace) == expected


def repro(workspace: Path) -> str:
    """Plain `dvc repro`, and again without a file that it cannot read, as docs/start.md advises; what it said."""
    command = [sys.executable, "-m", "dvc", "repro"]
    while True:
        done = subprocess.run(
            command, cwd=workspace, env=demo.environment(), capture_output=True, text=True, check=False
        )
        unreadable = [name for name in IN_PLACE if done.returncode and name in done.stderr]
        if not unreadable:
            assert done.returncode == 0, done.stderr
            return done.stdout
        (workspace / unreadable[0]).unlink()


@pytest.mark.reliability(
    "killed",
    "`kill -9` of `dvc repro`, at random moments",
    "plain `dvc repro` makes the very bytes of an undisturbed run; DVC may leave a trial link of four bytes",
)
def test_dvc_killed_anywhere(workspace: Path, moments: random.Random) -> None:
    """Killed in its start, in stages and between them, DVC leaves nothing that the next one stumbles over."""
    expected = made(workspace)
    due(workspace, *DATA)
    for _ in range(KILLS):
        with started(workspace, "dvc", "repro", DATA[-1]) as process:
            time.sleep(moments.uniform(1, 5))
            process.kill()
            process.wait()
    repro(workspace)
    for trial in (workspace / "artifacts").rglob(".*.tmp"):
        assert trial.read_text() == "test"  # DVC's, to see whether it can link
        trial.unlink()
    assert made(workspace) == expected, f"with SEED = {SEED}"


@pytest.mark.reliability(
    "two at once",
    "`dvc repro` beside a stage whose DVC was killed",
    "the stage ends within seconds, and the result is that of an undisturbed run",
)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_stage_that_lost_its_dvc_is_no_rival(
    workspace: Path, held: Held, monkeypatch: pytest.MonkeyPatch, *, shell: str
) -> None:
    """Begun at once after DVC was killed, the next has the workspace for itself before it comes to run the stage."""
    monkeypatch.setenv("SHELL", shell)
    expected = made(workspace)
    due(workspace, "extract_features")
    shutil.rmtree(workspace / ".cache/features")
    with held("dvc", "repro", at="import tensorflow") as process:
        os.killpg(process.pid, signal.SIGCONT)  # left alone, what is held is sent SIGHUP by the system
        process.kill()
        process.wait()
        said = repro(workspace)
        assert process.communicate(timeout=10)[1].endswith(
            "The DVC that started this has ended.\n"
            "Asked to end. What was complete is kept; run the same command to go on.\n"
        )
    assert "Running stage 'extract_features'" in said
    assert made(workspace) == expected


@asked_to_end
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("shell", SHELLS)
def test_dvc_asked_to_end(
    workspace: Path, held: Held, monkeypatch: pytest.MonkeyPatch, *, number: signal.Signals, shell: str
) -> None:
    """Ctrl-C at a terminal reaches DVC and the stage, SIGTERM DVC alone: both are gone in ten seconds."""
    monkeypatch.setenv("SHELL", shell)
    due(workspace, "evaluate")
    with held("dvc", "repro", at="import tensorflow") as process:
        os.killpg(process.pid, signal.SIGCONT)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.communicate(timeout=10)[1]
    assert process.returncode in (255, -signal.SIGTERM)
    assert "What was complete is kept; run the same command to go on.\n" in said
    assert working(workspace) == []


@pytest.mark.reliability(
    "killed",
    "`kill -9` of `dvc repro` in the instant in which it writes dvc.lock",
    "DVC names the file; once it is removed, everything comes back from its cache",
)
@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("left", ["", "schema: '2.0'\nstages:\n  download:\n    cmd"])
def test_a_file_of_dvc_that_was_cut_short(workspace: Path, name: str, left: str) -> None:
    """What DVC writes in place may be unreadable if it is killed then; the next DVC names it: it has to be removed."""
    expected = made(workspace)
    shutil.rmtree(workspace / "artifacts/split")
    (workspace / name).write_text(left)
    with started(workspace, "dvc", "repro") as process:
        assert name in process.communicate(timeout=60)[1]
    assert process.returncode == 255
    assert "Running stage" not in repro(workspace)
    assert made(workspace) == expected
