import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows import processes, remote
from tests.flows.conftest import NUMBERS, add_remote, dvc, git, number, set_number

METRICS = Path("artifacts/download/metrics.json")


@pytest.fixture
def shared(project: Path, tmp_path: Path) -> Path:
    """The project, with a remote."""
    add_remote(tmp_path / "a store")
    return project


@pytest.fixture
def clone(shared: Path, tmp_path: Path) -> Path:
    """A clone that has what Git has, beside the current folder."""
    git("clone", "--quiet", str(shared), str(tmp_path / "a clone"))
    return tmp_path / "a clone"


def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the module."""
    return subprocess.run(
        [sys.executable, "-m", "flows.remote", *arguments],
        env=processes.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def take(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have DVC bring a stage up to date where it cannot run it."""
    monkeypatch.setenv("SHELL", "/bin/false")
    with Repo(".") as repo:
        repo.reproduce(stage, single_item=True)


def test_an_earlier_run_comes_back_in_another_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was pushed brings an earlier run's output and metrics where its params are set, and nothing runs."""
    assert remote.push() > 0
    monkeypatch.chdir(clone)
    set_number("download", 2)
    assert json.loads(METRICS.read_text()) == {"sum": 1}
    assert remote.pull("download") == "remote"
    take("download", monkeypatch)
    assert number("download") == 2
    assert json.loads(METRICS.read_text()) == {"sum": 2}


def test_dvc_alone_does_not_bring_it(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc push --run-cache` leaves out what earlier runs made; should it once not, this module can go."""
    dvc("push", "--quiet", "--run-cache")
    monkeypatch.chdir(clone)
    set_number("download", 2)
    assert "Running stage" in dvc("repro", "--pull", "--single-item", "download")


def test_the_current_run_comes_in_a_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone gets what belongs to its own params, stage by stage, and nothing runs."""
    remote.push()
    monkeypatch.chdir(clone)
    for stage in NUMBERS:
        assert remote.pull(stage) == "remote"
        take(stage, monkeypatch)
    assert number("evaluate") == 1112
    assert json.loads(Path("artifacts/evaluate/metrics.json").read_text()) == {"sum": 1112}


@pytest.mark.usefixtures("shared")
def test_what_is_here_is_not_asked_for() -> None:
    """An earlier run of this very clone comes from DVC's own cache, also if the remote is empty."""
    set_number("download", 2)
    assert remote.pull("download") == "cache"
    assert number("download") == 2


def test_what_nobody_ran_does_not_come(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For params of which the remote has no run there is nothing to bring, and the workspace stays as it is."""
    remote.push()
    monkeypatch.chdir(clone)
    set_number("download", 3)
    assert remote.pull("download") is None
    assert not Path("artifacts/download/made").exists()


@pytest.mark.usefixtures("shared")
def test_only_what_is_missing_is_sent() -> None:
    """The second time there is nothing to send; after another run only what is new."""
    assert remote.push() > 1
    assert remote.push() == 0
    set_number("evaluate", 9)
    with Repo(".") as repo:
        repo.reproduce("evaluate")
    assert remote.push() == 3  # a folder, the number in it and the metrics


@pytest.mark.usefixtures("shared")
def test_what_was_collected_as_garbage_holds_up_nothing() -> None:
    """After `dvc gc` the runs whose outputs are gone are passed over, and what is there is sent."""
    dvc("gc", "--workspace", "--force", "--quiet")
    assert remote.push() > 0
    assert remote.push() == 0


@pytest.mark.usefixtures("project")
def test_without_a_remote_dvc_says_what_to_do() -> None:
    """Neither way goes without a remote; the command says in a line how to name one."""
    set_number("download", 99)
    with pytest.raises(DvcException, match="dvc remote add"):
        remote.push()
    set_number("download", 3)
    with pytest.raises(DvcException, match="dvc remote add"):
        remote.pull("download")
    done = command("push")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ERROR: ")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("arguments", [("push",), ("pull", "download")], ids=" ".join)
def test_a_remote_that_is_down_is_no_traceback(arguments: tuple[str, ...]) -> None:
    """A server that cannot be reached is said in a line, with an exit code of failure."""
    set_number("download", 99)
    add_remote("s3://bucket/store")
    set_number("download", 3)
    unreachable = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
    }
    done = command(*arguments, **unreachable)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1:1" in done.stderr.splitlines()[-1]


def test_a_push_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it with the code for that, without a traceback."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dvc.repo.Repo", interrupted)
    monkeypatch.setattr(sys, "argv", ["flows.remote", "push"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(remote.__file__), run_name="__main__")
    assert end.value.code == 130


def test_the_commands_say_what_they_did(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`push` says how many files it sent, `pull` that it brought something."""
    done = command("push")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[1-9]\d* files pushed\.\n", done.stdout)
    monkeypatch.chdir(clone)
    done = command("pull", "download")
    assert (done.returncode, remote.brought(done.stdout.splitlines())) == (0, "remote")
