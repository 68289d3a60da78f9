import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo

from flows import experiments, processes, remote
from tests.flows.conftest import NUMBERS, add_remote, dvc, dvc_repro_running, git, number, set_number

METRICS = Path("artifacts/download/metrics.json")


@pytest.fixture
def shared(project: Path, tmp_path: Path) -> Path:
    """The project with a remote."""
    add_remote(tmp_path / "a store")
    return project


@pytest.fixture
def clone(shared: Path, tmp_path: Path) -> Path:
    """A clone of the Git repository; not the current folder."""
    git("clone", "--quiet", str(shared), str(tmp_path / "a clone"))
    return tmp_path / "a clone"


def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `python -m flows.remote`."""
    return subprocess.run(
        [sys.executable, "-m", "flows.remote", *arguments],
        env=processes.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def reproduce_without_running(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproduce a stage with a shell that cannot run it."""
    monkeypatch.setenv("SHELL", "/bin/false")
    with Repo(".") as repo:
        repo.reproduce(stage, single_item=True)


def test_an_earlier_run_is_restored_in_another_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pushed run is restored with output and metrics where its parameters are set, and nothing runs."""
    assert remote.push() > 0
    monkeypatch.chdir(clone)
    set_number("download", 2)
    assert json.loads(METRICS.read_text()) == {"sum": 1}
    assert remote.pull("download") == "remote"
    reproduce_without_running("download", monkeypatch)
    assert number("download") == 2
    assert json.loads(METRICS.read_text()) == {"sum": 2}


def test_dvc_alone_does_not_restore_it(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc push --run-cache` leaves out the outputs of earlier runs; if it no longer does, `flows.remote` can go."""
    dvc("push", "--quiet", "--run-cache")
    monkeypatch.chdir(clone)
    set_number("download", 2)
    assert "Running stage" in dvc("repro", "--pull", "--single-item", "download")


def test_the_current_run_is_restored_in_a_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone restores the run of its own parameters, stage by stage, and nothing runs."""
    remote.push()
    monkeypatch.chdir(clone)
    for stage in NUMBERS:
        assert remote.pull(stage) == "remote"
        reproduce_without_running(stage, monkeypatch)
    assert number("evaluate") == 1112
    assert json.loads(Path("artifacts/evaluate/metrics.json").read_text()) == {"sum": 1112}


@pytest.mark.usefixtures("shared")
def test_a_run_in_the_cache_is_not_fetched() -> None:
    """An earlier run of this clone is restored from DVC's local cache, also if the remote is empty."""
    set_number("download", 2)
    assert remote.pull("download") == "cache"
    assert number("download") == 2


def test_without_an_earlier_run_nothing_is_restored(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For parameters without a run in the remote, nothing is restored."""
    remote.push()
    monkeypatch.chdir(clone)
    set_number("download", 3)
    assert remote.pull("download") is None
    assert not Path("artifacts/download/made").exists()


@pytest.mark.usefixtures("shared")
def test_only_missing_files_are_sent() -> None:
    """A second push sends nothing; a push after another run sends its new files."""
    assert remote.push() > 1
    assert remote.push() == 0
    set_number("evaluate", 9)
    with Repo(".") as repo:
        repo.reproduce("evaluate")
    assert remote.push() == 3  # a folder, the number in it and the metrics


@pytest.mark.usefixtures("shared")
def test_garbage_collected_runs_are_skipped() -> None:
    """After `dvc gc`, runs without outputs are skipped, and the others are sent."""
    dvc("gc", "--workspace", "--force", "--quiet")
    sent = re.compile(r"^([1-9]\d*) files pushed\.$", re.MULTILINE)
    assert sent.search(command("push").stdout)
    assert command("push").stdout == "0 files pushed.\n"


@pytest.mark.usefixtures("project")
def test_without_a_remote_the_message_says_how_to_add_one() -> None:
    """Neither push nor pull works without a remote; the command prints in a line how to add one."""
    set_number("download", 99)
    with pytest.raises(DvcException, match="dvc remote add"):
        remote.push()
    set_number("download", 3)
    with pytest.raises(DvcException, match="dvc remote add"):
        remote.pull("download")
    done = command("push")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("project")
def test_a_remote_that_is_down_is_no_traceback() -> None:
    """A server that cannot be reached is reported in a line, with the exit code 1."""
    set_number("download", 99)
    add_remote("s3://bucket/store")
    set_number("download", 3)
    unreachable = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
    }
    done = command("push", **unreachable)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:1" in done.stderr.splitlines()[-1]


def test_a_push_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a push with exit code 130, without a traceback."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dvc.repo.Repo", interrupted)
    monkeypatch.setattr(sys, "argv", ["flows.remote", "push"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(remote.__file__), run_name="__main__")
    assert end.value.code == 130


def test_an_up_to_date_stage_is_not_restored(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is up to date keeps its outputs, and neither cache nor remote is read."""
    remote.push()
    made = Path("artifacts/download/made/number")
    before = made.stat().st_ino
    assert remote.pull("download") is None
    assert made.stat().st_ino == before
    monkeypatch.chdir(clone)
    assert remote.pull("download") == "remote"
    assert remote.pull("download") is None


def test_a_stage_in_use_is_not_restored(shared: Path) -> None:
    """While another process of DVC runs the stage, its outputs stay in place."""
    partial = shared / "artifacts/download/partial"
    with dvc_repro_running("download"):
        partial.parent.mkdir(exist_ok=True)
        partial.touch()
        with pytest.raises(LockError):
            remote.pull("download")
        assert partial.exists()


@pytest.mark.usefixtures("shared")
def test_the_command_prints_what_it_sent() -> None:
    """`push` prints the number of files."""
    done = command("push")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[1-9]\d* files pushed\.\n", done.stdout)


@pytest.mark.usefixtures("shared")
def test_an_experiment_is_pushed_to_git(tmp_path: Path) -> None:
    """`push --experiment` sends an experiment, too; another one of the same name in the remote is not replaced."""
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("push", "--quiet", "origin", "main")
    first = experiments.save("brave-otter", [])
    done = command("push", "--experiment", first.name, "origin")
    assert done.stdout.endswith("Experiment brave-otter pushed.\n"), done.stderr
    assert first.commit in git("ls-remote", "origin")
    set_number("download", 2)
    experiments.save("brave-otter", [])
    done = command("push", "--experiment", first.name, "origin")
    assert (done.returncode, done.stderr) == (1, "`origin` already has another experiment `brave-otter`.\n")
