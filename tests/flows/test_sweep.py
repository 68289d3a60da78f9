import csv
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import processes, sweep
from tests.conftest import ROOT, Reproduced
from tests.flows.conftest import clone, git
from transfer.runtime import params
from transfer.runtime.errors import ParamsError

SWEEPS = """\
widths:
  stage: train_head
  seeds: [0, 1]
  given: {train_head.training.epochs: 1}
  grid:
    train_head.head.dense: [[4], []]
"""


def of_yaml(path: Path) -> Any:
    """A file's content."""
    return YAML(typ="safe").load(path)


@pytest.fixture
def project(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with the project and a small sweep; its DVC cache has what the demo has run."""
    folder = clone(tmp_path / "a project", reproduced.workspace)
    shutil.copytree(reproduced.workspace / ".cache/features", folder / ".cache/features")
    (folder / "sweeps.yaml").write_text(SWEEPS)
    shutil.copy2(reproduced.workspace / "dvc.lock", folder / "dvc.lock")
    monkeypatch.chdir(folder)
    git("add", "dvc.lock")
    git("-c", "user.name=test", "-c", "user.email=test", "commit", "-qam", "A sweep")
    return folder


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run sweeps as a user does."""
    environment = {name: value for name, value in os.environ.items() if name != "DOGS_VS_CATS_CACHE"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "flows.sweep", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def epochs() -> list[str]:
    """The histories that experiments have, with the seconds that no two trainings share."""
    refs = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [git("show", f"{ref}:artifacts/train_head/history.csv") for ref in refs if "/sweep-" in ref]


def test_a_sweep_compares_its_points_and_touches_nothing(project: Path) -> None:
    """Each point and seed is trained once, ever, and kept as an experiment; workspace and branch stay as they are."""
    before = (git("status", "--porcelain"), git("rev-parse", "HEAD"), Path("params.yaml").read_bytes())
    done = run("widths")
    assert done.returncode == 0, done.stderr
    with (project / "sweeps/widths.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["point"], line["seed"]) for line in lines] == [("[4]", "0"), ("[4]", "1"), ("[]", "0"), ("[]", "1")]
    assert len({line["val_loss"] for line in lines}) == 4
    assert (project / "sweeps/widths.svg").read_text().startswith("<svg")
    named = [line.split()[0] for line in done.stdout.splitlines()[1:3]]
    mean = {name: sum(float(line["val_loss"]) for line in lines if line["point"] == name) for name in ("[4]", "[]")}
    assert named == sorted(mean, key=lambda name: mean[name])
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD"), Path("params.yaml").read_bytes()) == before

    dvc = [sys.executable, "-m", "dvc", "exp"]
    listed = subprocess.run([*dvc, "list", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == [f"sweep-widths-{name}" for name in ("4-seed-0", "4-seed-1", "seed-0", "seed-1")]
    subprocess.run([*dvc, "apply", "sweep-widths-4-seed-1"], capture_output=True, check=True)
    applied = of_yaml(Path("params.yaml"))["train_head"]
    assert (applied["head"]["dense"], applied["training"]["epochs"], applied["seed"]) == ([4], 1, 1)
    assert (project / "artifacts/train_head/head.keras").exists()

    first = epochs()
    again = run("widths")
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    assert epochs() == first


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (SWEEPS, "heights", r"one of sweeps\.yaml: widths\. Received: 'heights'"),
        (
            SWEEPS.replace("train_head\n", "evaluate\n"),
            "widths",
            r"`widths\.stage` must be 'train_head' or 'fine_tune'",
        ),
        (SWEEPS.replace("  stage: train_head\n", ""), "widths", r"`widths\.stage` is missing from sweeps\.yaml"),
        ("widths:", "widths", r"sweeps\.yaml needs a section `widths`"),
        (SWEEPS.partition("  grid")[0], "widths", "either `grid` or `points`.*Received: neither"),
        (f"{SWEEPS}  points: {{a: {{}}}}", "widths", "either `grid` or `points`.*Received: both"),
        (SWEEPS.replace("[[4], []]", "[]"), "widths", r"`train_head\.head\.dense` must have .* Received: \[\]"),
        (SWEEPS.replace("[[4], []]", "[[4], [4]]"), "widths", r"each once\. Received: \[\[4\], \[4\]\]"),
        (SWEEPS.replace("[0, 1]", "[]"), "widths", r"`seeds` must have .* Received: \[\]"),
        (SWEEPS.replace("[0, 1]", "[1, 1]"), "widths", r"`seeds` must have .* Received: \[1, 1\]"),
        (SWEEPS.replace("[0, 1]", "[0, -1]"), "widths", r"`widths\.seeds\.1` must be greater than or equal to 0"),
        (f"{SWEEPS.replace('[[4], []]', '[a b, a]')}    c.d: [c, b c]", "widths", r"Received: a b c, a b c\. "),
        (SWEEPS.replace("[[4], []]", "[-1, 1, 2]"), "widths", r"Received: -1, 1\. Name them"),
        (SWEEPS * 2, "widths", r"sweeps\.yaml must be readable YAML.*duplicate key"),
        ("widths: {", "widths", r"sweeps\.yaml must be readable YAML"),
        ("", "widths", r"sweeps\.yaml must hold sections"),
        (None, "widths", r"sweeps\.yaml is missing"),
    ],
)
def test_a_sweep_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str, message: str
) -> None:
    """The message says what there is, or what is wrong."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("sweeps.yaml").write_text(text)
    with pytest.raises(ParamsError, match=f"(?s){message}"):
        sweep.read(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^params\.yaml is missing"),
        ("train_head: {", r"^params\.yaml must be readable YAML"),
        ("train_head: {seed: 2024-13-45}", r"^params\.yaml must be readable YAML"),
        ("train_head: {seed: 0}", r"^Point `\[4\]`: .*Received: `train_head\.training\.epochs`"),
    ],
)
def test_params_that_cannot_be_varied_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    """The file is named where it is wrong, and the point where that is."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("params.yaml").write_text(text)
    found = sweep.Sweep(
        stage="train_head",
        seeds=[0],
        given={"train_head.training.epochs": 1},
        grid={"train_head.head.dense": [[4]]},
    )
    with pytest.raises(ParamsError, match=message):
        sweep.trials(found)


def test_no_point_is_trained_before_all_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage would refuse of the last point is told at once, all of it, with the exit code of wrong params."""
    monkeypatch.chdir(tmp_path)
    shutil.copy2(ROOT / "params.yaml", tmp_path)
    wrong = {"train_head.head.l2": -1, "train_head.training.optimizer": "sdg", "download.source": date(2024, 1, 2)}
    points = {"adam": {}, "misspelt": wrong}
    with Path("sweeps.yaml").open("w") as file:
        YAML().dump({"optimizers": {"stage": "train_head", "seeds": [0, 1], "points": points}}, file)
    done = run("optimizers")
    assert (done.returncode, done.stdout) == (78, "")
    first, *others = done.stderr.splitlines()
    assert first.startswith("Point `misspelt`: `download.source` must be")
    assert [line.split("`")[1] for line in others] == ["train_head.head.l2", "train_head.training.optimizer"]
    assert not Path(".cache").exists()


def test_a_stage_that_fails_later_has_the_last_word(project: Path) -> None:
    """The sweep ends with the stage's own message and exit code."""
    sweeps = {"more": {"stage": "train_head", "seeds": [0], "points": {"mine": {"download.source": "inbox"}}}}
    YAML().dump(sweeps, project / "sweeps.yaml")
    done = run("more")
    assert done.returncode == 65, done.stderr
    assert done.stderr.startswith("Put photographs into a folder a class")
    assert done.stderr.endswith("run the same command to go on.\n")


@pytest.mark.parametrize(("named", "memo"), [(None, ".cache"), ("a memo", "a memo"), ("/a/memo", "/a/memo")])
def test_a_point_uses_the_memo_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, memo: str
) -> None:
    """A memo that is named relative to the project is the same for stages that run in the sweep's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    if named:
        monkeypatch.setenv("DOGS_VS_CATS_CACHE", named)
    used: list[str] = []

    def fail(_command: object, environment: dict[str, str], **_: object) -> tuple[int, list[str]]:
        used.append(environment["DOGS_VS_CATS_CACHE"])
        return 1, []

    monkeypatch.setattr(processes, "run", fail)
    with pytest.raises(sweep.StoppedError):
        sweep._scores("train_head", "")
    assert used == [str(tmp_path / memo)]


def test_links_in_the_inbox_are_followed(project: Path) -> None:
    """Photographs are in the sweep's folder too, whether or not they are links."""
    (project / "inbox/dogs").mkdir(parents=True)
    (project / "inbox/dogs/1.jpg").write_bytes(b"no link")
    (project / "inbox/dogs/2.jpg").symlink_to("../../2.jpg")
    (project / "2.jpg").write_bytes(b"linked file")
    sweep.prepare()
    inbox = sweep.WORKSPACE / "inbox"
    found = {str(path.relative_to(inbox)): path.read_bytes() for path in inbox.rglob("*.jpg") if not path.is_symlink()}
    assert found == {"dogs/1.jpg": b"no link", "dogs/2.jpg": b"linked file"}


def test_only_params_that_exist_are_varied() -> None:
    """A slip of the pen in a sweep is no new param, which no stage would look at."""
    with pytest.raises(ParamsError, match=r"Received: `train_head\.head\.droput`"):
        sweep.changed({"train_head": {"head": {"dropout": 0.5}}}, {"train_head.head.droput": 0.1})


@pytest.mark.parametrize("dense", ["[256] # units", "# units\n  - 256\n  - 16"])
@pytest.mark.parametrize("value", [[], [4], {"a": 1}, 3])
def test_params_are_written_as_they_are_meant(dense: str, value: object) -> None:
    """Whatever takes the place of a value with a comment, what is read again is what was set."""
    text = f"head:\n  dense:  {dense}\n  activation: relu\n  dropout: 0.5 # before\n"
    written = sweep.in_yaml(sweep.changed(YAML().load(text), {"head.dense": value}))
    expected = {"head": {"dense": value, "activation": "relu", "dropout": 0.5}}
    assert YAML(typ="safe").load(written) == expected


def test_a_grid_has_every_combination() -> None:
    """Points are in the order in which they are written down, the last param varying first."""
    grid = sweep.Sweep(stage="train_head", seeds=[0], grid={"a.b": [1, 2], "a.c": [3, 4]})
    assert [point.name for point in sweep.points(grid)] == ["1 3", "1 4", "2 3", "2 4"]
    assert sweep.points(grid)[1].changes == {"a.b": 1, "a.c": 4}


@pytest.mark.parametrize("name", list(of_yaml(ROOT / "sweeps.yaml")))
def test_the_ready_sweeps_are_sound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point of every sweep that comes with the project is one that the stages take."""
    monkeypatch.chdir(ROOT)
    found = sweep.read(name)
    assert len({point.name for point in sweep.points(found)}) == len(sweep.points(found)) > 2
    for point in sweep.points(found):
        document = sweep.changed(of_yaml(ROOT / "params.yaml"), {**found.given, **point.changes})
        for stage, section in document.items():
            params.parse(stage, section, importlib.import_module(f"tasks.{stage}").Params)


def test_the_table_has_the_best_first() -> None:
    """By mean validation loss, with the seeds' range."""
    results = [
        sweep.Result(point, seed, {"val_loss": loss, "val_accuracy": 0.9, "best_epoch": 3})
        for point, losses in (("adam", (0.2, 0.4)), ("sgd", (0.1, 0.3)))
        for seed, loss in enumerate(losses)
    ]
    found = sweep.Sweep(stage="train_head", seeds=[0, 1], grid={"a.optimizer": ["adam", "sgd"]})
    lines = sweep.table(found, sweep.compared(results)).splitlines()
    assert [line.split()[0] for line in lines] == ["optimizer", "sgd", "adam"]
    assert re.search(r"0\.2000 +0\.1000 to 0\.3000 +90\.0 %", lines[1])
    alone = sweep.table(found.model_copy(update={"seeds": [0]}), sweep.compared(results[::2]))
    assert " to " not in alone


def test_a_fine_tuning_that_was_no_better_counts_as_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fine-tuning hands on the head's network the point has the head's scores, and the sweep goes on."""
    monkeypatch.chdir(tmp_path)
    head = {"epochs": 4, "best_epoch": 3, "loss": 0.2, "accuracy": 0.9, "val_loss": 0.1, "val_accuracy": 0.96}
    for stage, metrics in {"train_head": head, "fine_tune": {"head_val_loss": 0.1, "epochs": 2}}.items():
        (tmp_path / "artifacts" / stage).mkdir(parents=True)
        (tmp_path / "artifacts" / stage / "metrics.json").write_text(json.dumps(metrics))
    assert sweep.scores_of("fine_tune") == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 0}
    assert sweep.scores_of("train_head") == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 3}
