"""Versions of data and models: push, pull, restore, compare, and add photographs."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from flows import sandbox
from tests import servers
from tests.conftest import Reproduced, copy_workspace

ROOT = Path(__file__).parent.parent
IN_GIT = ("metrics.json", "history.csv")
REMOTES = ("folder", "s3")
pytestmark = pytest.mark.long


class Version(NamedTuple):
    """The artifacts of one run, and the content of the remotes after its push."""

    artifacts: dict[str, str]  # MD5 by path
    remotes: dict[str, dict[str, object]]  # by remote: time of writing by path


class Versions(NamedTuple):
    """A project with two pushed versions, tagged v1 and v2; v2 has 10 photographs more and another dropout rate."""

    project: Path
    v1: Version
    v2: Version


def run(folder: Path, *command: str) -> str:
    """Run a command, which must succeed, and return its output."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=sandbox.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def git(folder: Path, *arguments: str) -> str:
    """Run Git and return its output."""
    return run(folder, "git", *arguments)


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC and return its output and that of the stages."""
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def ran(output: str) -> list[str]:
    """Return the stages that DVC ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def restored(output: str) -> list[str]:
    """Return the stages whose earlier results DVC restored."""
    return re.findall(r"Stage '(\w+)' is cached - skipping run", output)


def artifacts(project: Path) -> dict[str, str]:
    """Return the MD5 of every artifact by its path."""
    paths = (path for path in (project / "artifacts").rglob("*") if path.is_file())
    return {
        path.relative_to(project).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324 - as DVC does
        for path in paths
    }


def create_project(workspace: Path, folder: Path) -> Path:
    """Create a Git repository with the demo's workspace and, to be quick, only the stages up to `train_head`."""
    copy_workspace(workspace, folder)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    for name in ("fine_tune", "evaluate", "export"):
        shutil.rmtree(folder / "artifacts" / name)
    stages = {name: stage for name, stage in pipeline["stages"].items() if (folder / "artifacts" / name).exists()}
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Somebody")
    git(folder, "config", "user.email", "somebody@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=The project")
    return folder


def clone(origin: Path, folder: Path, revision: str = "v2") -> Path:
    """Clone a repository at a revision and return the clone."""
    git(folder, "clone", "--quiet", f"--branch={revision}", str(origin), "clone")
    return folder / "clone"


def set_params(project: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Change values in params.yaml."""
    yaml, path = YAML(), project / "params.yaml"
    yaml.dump(sandbox.merged(yaml.load(path), changes), path)


def times_of_writing(folder: Path) -> dict[str, object]:
    """Return the time of writing of each file below a folder by its path."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def release(tag: str, project: Path, folder: Path, bucket: servers.Bucket) -> Version:
    """Commit and tag the results of a run, and push its data to the remotes, a folder and a bucket."""
    git(project, "add", ".")
    git(project, "commit", "--quiet", f"--message={tag}")
    git(project, "tag", tag)
    for remote in REMOTES:
        dvc(project, "push", "--remote", remote)
    return Version(artifacts(project), {"folder": times_of_writing(folder), "s3": bucket.objects("dogs-vs-cats/")})


@pytest.fixture(scope="module")
def versions(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """The demo, then an experiment with other parameters, each pushed to a folder and to S3."""
    folder = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch, servers.serve_s3() as bucket:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        project, remote = create_project(reproduced.workspace, folder / "project"), folder / "remote"
        dvc(project, "remote", "add", "-d", "s3", "s3://bucket/dogs-vs-cats")
        dvc(project, "remote", "add", "-d", "folder", str(remote))

        v1 = release("v1", project, remote, bucket)
        changes = ("-S", "subsample.photographs=60", "-S", "train_head.head.dropout=0.25")
        dvc(project, "exp", "run", "--name", "more", *changes)
        v2 = release("v2", project, remote, bucket)
        yield Versions(project, v1, v2)


@pytest.mark.parametrize("remote", REMOTES)
def test_a_clone_pulls_data_and_model_and_runs_nothing(versions: Versions, remote: str, tmp_path: Path) -> None:
    """Another machine pulls the same bytes that one machine pushed, and DVC then runs no stage."""
    project = clone(versions.project, tmp_path)
    dvc(project, "pull", "--remote", remote)
    assert artifacts(project) == versions.v2.artifacts
    output = dvc(project, "repro")
    assert ran(output) == restored(output) == []
    assert "up to date" in output


@pytest.mark.parametrize("remote", REMOTES)
def test_more_photographs_push_only_new_files(versions: Versions, remote: str) -> None:
    """A push of 10 photographs more sends these, their rows and seven small files, and writes no other file again."""
    before, after = versions.v1.remotes[remote], versions.v2.remotes[remote]
    assert {key: after[key] for key in before} == before

    new = {path: md5 for path, md5 in versions.v2.artifacts.items() if versions.v1.artifacts.get(path) != md5}
    photographs = [path for path in new if path.startswith("artifacts/subsample/photos/")]
    rows = [path for path in new if path.endswith(".npz")]
    small = {path for path in new if path not in (*photographs, *rows) and not path.endswith(IN_GIT)}
    assert len(photographs) == 10
    assert 10 < len(rows) <= 20  # view 0 of each photograph, and view 1 of each training photograph
    assert small == {
        "artifacts/subsample/manifest.csv",
        "artifacts/split/manifest.csv",
        "artifacts/extract_features/augmentation.jpg",
        "artifacts/train_head/head.keras",
        "artifacts/train_head/model.json",
    }
    sent = {key.removeprefix("files/md5/").replace("/", "") for key in after.keys() - before.keys()}
    listings = {key for key in sent if key.endswith(".dir")}  # DVC's listing of the photographs, and of the rows
    assert len(listings) == 2
    assert sent - listings == {new[path] for path in (*photographs, *rows, *small)}


def test_a_tag_restores_an_old_version(versions: Versions) -> None:
    """Git restores a tag's parameters and scores, `dvc checkout` its photographs, rows and model; no stage reruns."""
    git(versions.project, "checkout", "--quiet", "v1")
    dvc(versions.project, "checkout")
    old, output = artifacts(versions.project), dvc(versions.project, "repro")
    git(versions.project, "checkout", "--quiet", "main")
    dvc(versions.project, "checkout")
    assert old == versions.v1.artifacts != versions.v2.artifacts
    assert ran(output) == restored(output) == []
    assert artifacts(versions.project) == versions.v2.artifacts


def test_a_clone_gets_a_version_by_tag_or_by_experiment(versions: Versions, tmp_path: Path) -> None:
    """In a clone, `dvc pull` gets the version that is checked out, `dvc exp pull` and `dvc exp apply` an experiment."""
    origin = tmp_path / "origin"
    git(tmp_path, "clone", "--quiet", "--bare", str(versions.project), str(origin))
    dvc(versions.project, "exp", "push", str(origin), "more")
    project = clone(origin, tmp_path, "v1")
    dvc(project, "pull")
    assert artifacts(project) == versions.v1.artifacts
    dvc(project, "exp", "pull", "origin", "more")
    dvc(project, "exp", "apply", "more")
    assert artifacts(project) == versions.v2.artifacts
    output = dvc(project, "repro")
    assert ran(output) == restored(output) == []


def test_two_versions_are_compared(versions: Versions, tmp_path: Path) -> None:
    """The diffs of params, metrics and plots have the values of both tags, in a clone without data."""
    project = clone(versions.project, tmp_path)
    params, metrics, plots = (
        json.loads(dvc(project, kind, "diff", "--json", "v1", "v2")) for kind in ("params", "metrics", "plots")
    )
    assert params["params.yaml"] == {
        "subsample.photographs": {"old": 50, "new": 60, "diff": 10},
        "train_head.head.dropout": {"old": 0.5, "new": 0.25, "diff": -0.25},
    }
    scores, history = "artifacts/train_head/metrics.json", "artifacts/train_head/history.csv"
    points = plots["data"][history][0]["content"]["data"]["values"]
    for tag, side in (("v1", "old"), ("v2", "new")):
        metrics_of_tag = json.loads(git(project, "show", f"{tag}:{scores}"))
        assert {name: change[side] for name, change in metrics[scores].items()}.items() <= metrics_of_tag.items()
        epochs = csv.DictReader(git(project, "show", f"{tag}:{history}").splitlines())
        assert [point["val_loss"] for point in points if point["rev"] == tag] == [row["val_loss"] for row in epochs]
