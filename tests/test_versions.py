"""Versions of data and models: pushed, pulled, had back, compared, and grown by what is new alone."""

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

from flows import demo
from tests import servers

ROOT = Path(__file__).parent.parent
SMALLER: dict[str, dict[str, Any]] = {
    "download": {"generated": {"photographs": 80, "size": 32}},
    "subsample": {"photographs": 40},
    "extract_features": {"image_size": 32},
    "train_head": {"head": {"dense": [4]}, "training": {"epochs": 1}},
}
IN_GIT = ("metrics.json", "history.csv")
REMOTES = ("folder", "s3")


class Version(NamedTuple):
    """What one run left."""

    artifacts: dict[str, str]  # every file's MD5, by its place
    remotes: dict[str, dict[str, object]]  # after the push: what each remote holds, and when it was written


class Circle(NamedTuple):
    """A project with two versions, tagged v1 and v2, both pushed; v2 has 20 photographs more and another dropout."""

    project: Path
    v1: Version
    v2: Version


def run(folder: Path, *command: str) -> str:
    """Run a command, which must succeed; what it said."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=demo.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def git(folder: Path, *arguments: str) -> str:
    """Run Git; what it said."""
    return run(folder, "git", *arguments)


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC; what it and the stages said."""
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def ran(said: str) -> list[str]:
    """The stages that DVC ran."""
    return re.findall(r"Running stage '(\w+)'", said)


def restored(said: str) -> list[str]:
    """The stages whose earlier result DVC brought back."""
    return re.findall(r"Stage '(\w+)' is cached - skipping run", said)


def artifacts(project: Path) -> dict[str, str]:
    """The MD5 of every artifact, by its place."""
    paths = (path for path in (project / "artifacts").rglob("*") if path.is_file())
    return {
        path.relative_to(project).as_posix(): hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324 - as DVC does
        for path in paths
    }


def copy_of_the_project(folder: Path) -> Path:
    """What Git has of the project, in a repository of its own: with small params and, to be quick, up to the head."""
    demo.prepare(ROOT, folder)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore"):
        shutil.copy2(ROOT / name, folder / name)
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    stages = {name: stage for name, stage in pipeline["stages"].items() if name not in ("fine_tune", "evaluate")}
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Somebody")
    git(folder, "config", "user.email", "somebody@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=The project")
    return folder


def clone(origin: Path, folder: Path, revision: str = "v2") -> Path:
    """A fresh clone of a repository, at a revision."""
    git(folder, "clone", "--quiet", f"--branch={revision}", str(origin), "clone")
    return folder / "clone"


def set_params(project: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Edit params.yaml."""
    yaml, path = YAML(), project / "params.yaml"
    yaml.dump(demo.merged(yaml.load(path), changes), path)


def in_folder(folder: Path) -> dict[str, object]:
    """When each file below a folder was written, by its place."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def release(tag: str, project: Path, folder: Path, bucket: servers.Bucket) -> Version:
    """Commit what a run left, tag it and push its data to the remotes, a folder and a bucket."""
    git(project, "add", ".")
    git(project, "commit", "--quiet", f"--message={tag}")
    git(project, "tag", tag)
    for remote in REMOTES:
        dvc(project, "push", "--remote", remote)
    return Version(artifacts(project), {"folder": in_folder(folder), "s3": bucket.objects("dogs-vs-cats/")})


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Circle]:
    """A project that was run as it is, then as an experiment, each time pushed to a folder and to S3."""
    folder = tmp_path_factory.mktemp("versions")
    params = {name: {**section, **SMALLER.get(name, {})} for name, section in demo.PARAMS.items()}
    with pytest.MonkeyPatch.context() as patch, servers.serve_s3() as bucket:
        patch.setattr(demo, "PARAMS", params)
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        project, remote = copy_of_the_project(folder / "project"), folder / "remote"
        dvc(project, "remote", "add", "-d", "s3", "s3://bucket/dogs-vs-cats")
        dvc(project, "remote", "add", "-d", "folder", str(remote))

        dvc(project, "repro")
        v1 = release("v1", project, remote, bucket)
        changes = ("-S", "subsample.photographs=60", "-S", "train_head.head.dropout=0.25")
        dvc(project, "exp", "run", "--name", "more", *changes)
        v2 = release("v2", project, remote, bucket)
        yield Circle(project, v1, v2)


@pytest.mark.parametrize("remote", REMOTES)
def test_a_clone_pulls_data_and_model_and_has_nothing_to_do(circle: Circle, remote: str, tmp_path: Path) -> None:
    """What one machine pushed another pulls, byte for byte, and DVC then runs no stage."""
    project = clone(circle.project, tmp_path)
    dvc(project, "pull", "--remote", remote)
    assert artifacts(project) == circle.v2.artifacts
    said = dvc(project, "repro")
    assert ran(said) == restored(said) == []
    assert "up to date" in said


@pytest.mark.parametrize("remote", REMOTES)
def test_more_photographs_push_only_what_is_new(circle: Circle, remote: str) -> None:
    """Twenty photographs more send themselves, their rows and seven small files; what is there is not written again."""
    before, after = circle.v1.remotes[remote], circle.v2.remotes[remote]
    assert {key: after[key] for key in before} == before

    new = {path: md5 for path, md5 in circle.v2.artifacts.items() if circle.v1.artifacts.get(path) != md5}
    photographs = [path for path in new if path.startswith("artifacts/subsample/photos/")]
    rows = [path for path in new if path.endswith(".npz")]
    small = {path for path in new if path not in (*photographs, *rows) and not path.endswith(IN_GIT)}
    assert len(photographs) == 20
    assert 20 < len(rows) <= 40  # of each as it is, and of a view of each that is trained on
    assert small == {
        "artifacts/subsample/manifest.csv",
        "artifacts/split/manifest.csv",
        "artifacts/extract_features/augmentation.jpg",
        "artifacts/train_head/head.keras",
        "artifacts/train_head/model.json",
    }
    sent = {key.removeprefix("files/md5/").replace("/", "") for key in after.keys() - before.keys()}
    lists = {key for key in sent if key.endswith(".dir")}  # of the photographs and of the rows
    assert len(lists) == 2
    assert sent - lists == {new[path] for path in (*photographs, *rows, *small)}


def test_an_old_version_comes_back_by_its_tag(circle: Circle) -> None:
    """Git brings a tag's params and scores, `dvc checkout` its photographs, rows and model; no stage is due."""
    git(circle.project, "checkout", "--quiet", "v1")
    dvc(circle.project, "checkout")
    old, said = artifacts(circle.project), dvc(circle.project, "repro")
    git(circle.project, "checkout", "--quiet", "main")
    dvc(circle.project, "checkout")
    assert old == circle.v1.artifacts != circle.v2.artifacts
    assert ran(said) == restored(said) == []
    assert artifacts(circle.project) == circle.v2.artifacts


def test_versions_come_to_a_clone_by_tag_and_by_experiment(circle: Circle, tmp_path: Path) -> None:
    """In a clone `dvc pull` brings what is checked out, `dvc exp pull` and `dvc exp apply` an experiment."""
    origin = tmp_path / "origin"
    git(tmp_path, "clone", "--quiet", "--bare", str(circle.project), str(origin))
    dvc(circle.project, "exp", "push", str(origin), "more")
    project = clone(origin, tmp_path, "v1")
    dvc(project, "pull")
    assert artifacts(project) == circle.v1.artifacts
    dvc(project, "exp", "pull", "origin", "more")
    dvc(project, "exp", "apply", "more")
    assert artifacts(project) == circle.v2.artifacts
    said = dvc(project, "repro")
    assert ran(said) == restored(said) == []


def test_two_versions_are_compared(circle: Circle, tmp_path: Path) -> None:
    """The diffs of params, metrics and plots have the values of both tags, in a clone that has pulled nothing."""
    project = clone(circle.project, tmp_path)
    params, metrics, plots = (
        json.loads(dvc(project, kind, "diff", "--json", "v1", "v2")) for kind in ("params", "metrics", "plots")
    )
    assert params["params.yaml"] == {
        "subsample.photographs": {"old": 40, "new": 60, "diff": 20},
        "train_head.head.dropout": {"old": 0.5, "new": 0.25, "diff": -0.25},
    }
    scores, history = "artifacts/train_head/metrics.json", "artifacts/train_head/history.csv"
    points = plots["data"][history][0]["content"]["data"]["values"]
    for tag, side in (("v1", "old"), ("v2", "new")):
        kept = json.loads(git(project, "show", f"{tag}:{scores}"))
        assert {name: change[side] for name, change in metrics[scores].items()}.items() <= kept.items()
        epochs = csv.DictReader(git(project, "show", f"{tag}:{history}").splitlines())
        assert [point["val_loss"] for point in points if point["rev"] == tag] == [row["val_loss"] for row in epochs]
