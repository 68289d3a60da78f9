import shutil
import subprocess
from pathlib import Path

import pytest

from transfer.prediction import versions
from transfer.runtime.errors import DataError

WHO = ["-c", "user.name=a", "-c", "user.email=a"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with a commit, the current folder."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=Start")
    return tmp_path


def git(*arguments: str) -> str:
    """Run Git; return its output."""
    return subprocess.run(["git", *WHO, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def register(version: str, number: int) -> Path:
    """Put a new commit into production as a version whose network is fetched already; return the network's file."""
    git("commit", "--quiet", "--allow-empty", f"--message={version}")
    git("tag", "--annotate", "--message=Version", f"classifier@{version}")
    git("tag", "--annotate", "--message=Better.", f"classifier#prod#{number}")
    file = versions.folder(Path(), git("rev-parse", "HEAD")) / "model.keras"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_the_version_in_production_is_selected(project: Path) -> None:
    """By default the version with the last number, also beyond nine; a version by name, a file by path."""
    files = {number: register(f"v{number}.0.0", number) for number in (2, 9, 10)}
    selected = versions.select(project, None)
    assert selected.file == project / files[10]
    assert selected.description.startswith("v10.0.0, in production since 20")
    assert versions.select(project, "v2.0.0") == (project / files[2], "version v2.0.0")
    assert versions.select(project, "a/model.keras") == (Path("a/model.keras"), "a/model.keras")
    with pytest.raises(DataError, match=r"registered: v2\.0\.0, v9\.0\.0, v10\.0\.0\. Received: v3\.0\.0"):
        versions.select(project, "v3.0.0")


def test_without_a_promotion_the_newest_is_selected(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In a project without tags or without Git, the network of `fine_tune` is selected, and the description says so."""
    for folder in (project, tmp_path_factory.mktemp("elsewhere")):
        file, description = versions.select(folder, None)
        assert file == folder / "artifacts/fine_tune/model.keras"
        assert "the newest, as none is in production" in description
    with pytest.raises(DataError, match="registered: none"):
        versions.select(project, "v1.0.0")


def test_files_that_cannot_be_fetched_are_reported(project: Path) -> None:
    """If the network of the version in production is nowhere, no other one is used in its place."""
    shutil.rmtree(register("v1.0.0", 1).parent)
    with pytest.raises(DataError, match=r"The files of v1\.0\.0 cannot be fetched: "):
        versions.select(project, None)
