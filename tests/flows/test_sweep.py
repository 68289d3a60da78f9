import csv
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import sweep, trials
from tests.conftest import ROOT
from tests.flows.conftest import git

pytestmark = pytest.mark.long


def of_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return YAML(typ="safe").load(path)


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


def test_a_sweep_compares_its_points_and_changes_nothing(real_project: Path) -> None:
    """Each point and seed is trained once, also if repeated, and saved; workspace and branch do not change."""
    before = (git("status", "--porcelain"), git("rev-parse", "HEAD"), Path("params.yaml").read_bytes())
    done = run("widths")
    assert done.returncode == 0, done.stderr
    with (real_project / "sweeps/widths.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["point"], line["seed"]) for line in lines] == [("[4]", "1"), ("[]", "1")]
    assert (real_project / "sweeps/widths.svg").read_text().startswith("<svg")
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
    assert (real_project / "artifacts/train_head/head.keras").exists()

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


def test_a_stage_that_fails_ends_the_sweep(real_project: Path) -> None:
    """The sweep ends with the stage's message and exit code."""
    sweeps = {"more": {"stage": "train_head", "seeds": [0], "points": {"mine": {"download.source": "inbox"}}}}
    YAML().dump(sweeps, real_project / "sweeps.yaml")
    done = run("more")
    assert done.returncode == 65, done.stderr
    assert done.stderr.startswith("download: Put photographs into one folder per class")
    assert done.stderr.endswith("Completed points are saved.\n")


def test_a_sweep_before_any_run_names_the_run(
    real_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without dvc.lock a sweep ends with 65 and one line, before it trains anything."""
    (real_project / "dvc.lock").unlink()
    monkeypatch.setattr(trials, "run", None)
    assert sweep.main(["widths"]) == 65
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Run `dogs-vs-cats run` first.")


@pytest.mark.parametrize(
    ("code", "advice"), [(65, "are saved."), (75, "are saved; run the same command to continue.")], ids=["65", "75"]
)
@pytest.mark.usefixtures("real_project")
def test_the_advice_fits_the_exit_code(
    code: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only after an error that may pass the sweep says to run the same command again."""

    def stop(_: str, *, on_workers: bool) -> str:
        assert not on_workers
        raise trials.StoppedError("reason", code)

    monkeypatch.setattr(sweep, "_compare", stop)
    assert sweep.main(["widths"]) == code
    assert capsys.readouterr().err == f"reason\nCompleted points {advice}\n"
