import subprocess
from pathlib import Path

import pytest

from dogs_vs_cats import hints


def git(folder: Path, *arguments: str) -> None:
    """Run Git in a folder."""
    identity = ("-c", "user.name=test", "-c", "user.email=test")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with results that are not committed, seen from its folder `docs`."""
    folder = tmp_path / "project"
    (folder / "artifacts/evaluate").mkdir(parents=True)
    (folder / "docs").mkdir()
    for name in ("params.yaml", "dvc.lock", "artifacts/evaluate/metrics.json"):
        (folder / name).write_text("{}")
    git(folder, "init", "-q")
    monkeypatch.chdir(folder / "docs")
    return folder


def test_the_commands_that_keep_a_result_work_as_printed(project: Path) -> None:
    """After a run the user can paste the lines, from the folder in which the run was started."""
    git(project / "docs", "config", "user.name", "test")
    git(project / "docs", "config", "user.email", "test")
    line = next(line for line in hints.keep(project).splitlines() if "git add" in line)
    subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    assert hints.keep(project) == ""


def test_nothing_is_said_where_git_does_not_know_the_folder(tmp_path: Path) -> None:
    """A project without Git gets no advice that would fail."""
    assert hints.keep(tmp_path) == ""
