import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dogs_vs_cats import workspace
from transfer.runtime import paths
from transfer.runtime.errors import ParamsError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a module `tasks` and a module `sample`, which print what they are given."""
    folder = tmp_path / "a project"
    (folder / "tasks").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "dvc.yaml").touch()
    (folder / "tasks/__main__.py").touch()
    (folder / "sample.py").write_text("import os, sys\nprint(os.getcwd(), *sys.argv[1:])\nsys.exit(65)\n")
    return folder


def test_the_project_is_found_from_the_folders_in_it(project: Path) -> None:
    """The nearest folder with dvc.yaml and tasks/ is the project, so a copy in `.cache/demo/` is one of its own."""
    assert workspace.find(project) == workspace.find(project / "docs") == project
    copy = project / ".cache/demo"
    (copy / "tasks").mkdir(parents=True)
    (copy / "dvc.yaml").touch()
    (copy / "tasks/__main__.py").touch()
    assert workspace.find(copy / "tasks") == copy
    assert workspace.find(project.parent) is None


def test_a_folder_outside_of_a_project_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder and the way out."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError) as caught:
        workspace.current()
    assert f"Received: {tmp_path}. Change to the project's folder" in str(caught.value)


def test_children_find_the_project_s_modules(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A module runs in the project's folder, also with PYTHONSAFEPATH=1; its exit code is returned."""
    monkeypatch.chdir(project / "docs")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert workspace.run(project, "sample", "a b") == 65
    assert capfd.readouterr().out == f"{project} a b\n"


def test_printed_paths_start_from_the_user_s_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that works in another folder than the user's names files as the user can type them."""
    monkeypatch.delenv(paths.USER_FOLDER, raising=False)
    monkeypatch.chdir(project)
    assert paths.USER_FOLDER not in workspace.environment(project)
    assert paths.displayed(Path("artifacts/x")) == "artifacts/x"
    monkeypatch.chdir(project / "docs")
    monkeypatch.setenv(paths.USER_FOLDER, workspace.environment(project)[paths.USER_FOLDER])
    monkeypatch.chdir(project)
    assert paths.displayed(Path("artifacts/x")) == "../artifacts/x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_child(project: Path, number: int) -> None:
    """SIGTERM and SIGHUP are forwarded; the exit code is the one that a shell reports."""
    (project / "sample.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
    program = "import sys; from pathlib import Path; from dogs_vs_cats import workspace\n"
    program += "sys.exit(workspace.run(Path.cwd(), 'sample'))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        assert process.wait(60) == 128 + number


STARTING = """\
import os, subprocess, sys
from pathlib import Path
from dogs_vs_cats import workspace

start = subprocess.Popen

def interrupted(*arguments, **options):
    os.kill(os.getpid(), int(sys.argv[1]))
    return start(*arguments, **options)

subprocess.Popen = interrupted
sys.exit(workspace.run(Path.cwd(), "sample"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_of_the_child_ends_it(project: Path, number: int) -> None:
    """A signal that only this process receives, before the child exists, ends the child with the same exit code."""
    (project / "sample.py").write_text("import time\ntime.sleep(600)\n")
    result = subprocess.run(
        [sys.executable, "-c", STARTING, str(int(number))],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")
