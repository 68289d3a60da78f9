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
    for name in ("params.yaml", "corrections.csv", "dvc.lock", "artifacts/evaluate/metrics.json"):
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


def test_an_experiment_is_proposed_once_git_knows_the_results(project: Path) -> None:
    """DVC leaves untracked scores out of an experiment, so before the first commit only the commit is proposed."""
    assert "dvc exp save" not in hints.keep(project)
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    (project / "dvc.lock").write_text("{a: 1}")
    assert "  dvc exp save ../dvc.yaml --name NAME\n" in hints.keep(project)


def test_nothing_is_said_where_git_does_not_know_the_folder(tmp_path: Path) -> None:
    """A project without Git gets no advice that would fail."""
    assert hints.keep(tmp_path) == ""
