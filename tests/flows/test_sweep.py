import csv
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import reproduction, sweep
from flows.reproduction import Outcome
from tests.conftest import ROOT, Reproduced
from tests.flows.conftest import clone, git

pytestmark = pytest.mark.long
SWEEPS = """\
widths:
  stage: train_head
  seeds: [1]
  given: {train_head.training.epochs: 1}
  grid:
    train_head.head.dense: [[4], []]
"""


def of_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return YAML(typ="safe").load(path)


@pytest.fixture
def project(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with the project and a small sweep; its DVC cache has the runs of the demo."""
    folder = clone(tmp_path / "a project", reproduced.workspace)
    shutil.copytree(reproduced.workspace / ".cache/features", folder / ".cache/features")
    (folder / "sweeps.yaml").write_text(SWEEPS)
    shutil.copy2(reproduced.workspace / "dvc.lock", folder / "dvc.lock")
    monkeypatch.chdir(folder)
    git("add", "dvc.lock")
    git("-c", "user.name=test", "-c", "user.email=test", "commit", "-qam", "A sweep")
    return folder


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a sweep from a command line."""
    environment = {name: value for name, value in os.environ.items() if name != "DOGS_VS_CATS_CACHE"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "flows.sweep", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def histories() -> list[str]:
    """Return the histories of the experiments; their seconds differ between any two training runs."""
    refs = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [git("show", f"{ref}:artifacts/train_head/history.csv") for ref in refs if "/sweep-" in ref]


def test_a_sweep_compares_its_points_and_changes_nothing(project: Path) -> None:
    """Each point and seed is trained once, also if repeated, and saved; workspace and branch do not change."""
    before = (git("status", "--porcelain"), git("rev-parse", "HEAD"), Path("params.yaml").read_bytes())
    done = run("widths")
    assert done.returncode == 0, done.stderr
    with (project / "sweeps/widths.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["point"], line["seed"]) for line in lines] == [("[4]", "1"), ("[]", "1")]
    assert (project / "sweeps/widths.svg").read_text().startswith("<svg")
    named = [line.split()[0] for line in done.stdout.splitlines()[1:3]]
    loss = {line["point"]: float(line["val_loss"]) for line in lines}
    assert loss["[4]"] != loss["[]"]
    assert named == sorted(loss, key=lambda name: loss[name])
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD"), Path("params.yaml").read_bytes()) == before

    dvc = [sys.executable, "-m", "dvc", "exp"]
    listed = subprocess.run([*dvc, "list", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == ["sweep-widths-4-seed-1", "sweep-widths-seed-1"]
    subprocess.run([*dvc, "apply", "sweep-widths-4-seed-1"], capture_output=True, check=True)
    applied = of_yaml(Path("params.yaml"))["train_head"]
    assert (applied["head"]["dense"], applied["training"]["epochs"], applied["seed"]) == ([4], 1, 1)
    assert (project / "artifacts/train_head/head.keras").exists()

    first = histories()
    again = run("widths")
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    assert histories() == first


def test_no_point_is_trained_before_all_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All mistakes of a point are reported before anything runs, with the exit code of wrong parameters."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    wrong = {"train_head.head.l2": -1, "train_head.training.optimizer": "sdg", "download.source": date(2024, 1, 2)}
    points = {"adam": {}, "misspelt": wrong}
    with Path("sweeps.yaml").open("w") as file:
        YAML().dump({"optimizers": {"stage": "train_head", "seeds": [0, 1], "points": points}}, file)
    done = run("optimizers")
    assert (done.returncode, done.stdout) == (78, "")
    mistakes = done.stderr.splitlines()
    assert mistakes[0].startswith("Point `misspelt`: `download.source` must be")
    assert [line.split("`")[1:4:2] for line in mistakes] == [
        ["misspelt", name] for name in ("download.source", "train_head.head.l2", "train_head.training.optimizer")
    ]
    assert not Path(".cache").exists()


def test_a_stage_that_fails_ends_the_sweep(project: Path) -> None:
    """The sweep ends with the stage's message and exit code."""
    sweeps = {"more": {"stage": "train_head", "seeds": [0], "points": {"mine": {"download.source": "inbox"}}}}
    YAML().dump(sweeps, project / "sweeps.yaml")
    done = run("more")
    assert done.returncode == 65, done.stderr
    assert done.stderr.startswith("download: Put photographs into one folder per class")
    assert done.stderr.endswith("Completed points are saved.\n")


@pytest.mark.parametrize(("named", "cache"), [(None, ".cache"), ("a cache", "a cache"), ("/a/cache", "/a/cache")])
def test_a_point_uses_the_feature_cache_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, cache: str
) -> None:
    """A cache with a path relative to the project is the same for stages that run in the sweep's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    if named:
        monkeypatch.setenv("DOGS_VS_CATS_CACHE", named)
    used: list[str] = []

    def fail(_stage: str, *, variables: dict[str, str], **_: object) -> Outcome:
        used.append(variables["DOGS_VS_CATS_CACHE"])
        return Outcome("Failed", "", exit_code=1)

    monkeypatch.setattr(reproduction, "reproduce", fail)
    with pytest.raises(sweep.StoppedError):
        sweep._scores("train_head", "")
    assert used == [str(tmp_path / cache)]


def test_links_in_the_inbox_are_followed(project: Path) -> None:
    """Photographs are in the sweep's folder, too, whether or not they are symbolic links."""
    (project / "inbox/dogs").mkdir(parents=True)
    (project / "inbox/dogs/1.jpg").write_bytes(b"no link")
    (project / "inbox/dogs/2.jpg").symlink_to("../../2.jpg")
    (project / "2.jpg").write_bytes(b"linked file")
    sweep.prepare()
    inbox = sweep.WORKSPACE / "inbox"
    found = {str(path.relative_to(inbox)): path.read_bytes() for path in inbox.rglob("*.jpg") if not path.is_symlink()}
    assert found == {"dogs/1.jpg": b"no link", "dogs/2.jpg": b"linked file"}


def test_fine_tuning_without_improvement_has_the_scores_of_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If fine-tuning selects the head's network, the point has the head's scores and 0 as best epoch."""
    monkeypatch.chdir(tmp_path)
    head = {"epochs": 4, "best_epoch": 3, "loss": 0.2, "accuracy": 0.9, "val_loss": 0.1, "val_accuracy": 0.96}
    for stage, metrics in {"train_head": head, "fine_tune": {"head_val_loss": 0.1, "epochs": 2}}.items():
        (tmp_path / "artifacts" / stage).mkdir(parents=True)
        (tmp_path / "artifacts" / stage / "metrics.json").write_text(json.dumps(metrics))
    assert sweep.scores_of("fine_tune") == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 0}
    assert sweep.scores_of("train_head") == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 3}


def test_a_sweep_before_any_run_names_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without dvc.lock a sweep ends with 65 and one line, before it trains anything."""
    (project / "dvc.lock").unlink()
    monkeypatch.setattr(sweep, "run", None)
    assert sweep.main(["widths"]) == 65
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Run `dogs-vs-cats run` first.")


@pytest.mark.parametrize(
    ("code", "advice"), [(65, "are saved."), (75, "are saved; run the same command to continue.")], ids=["65", "75"]
)
@pytest.mark.usefixtures("project")
def test_the_advice_fits_the_exit_code(
    code: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only after an error that may pass the sweep says to run the same command again."""

    def stop(_: str) -> str:
        raise sweep.StoppedError("reason", code)

    monkeypatch.setattr(sweep, "_compare", stop)
    assert sweep.main(["widths"]) == code
    assert capsys.readouterr().err == f"reason\nCompleted points {advice}\n"
