import importlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import demo
from tests import disks
from transfer.runtime.errors import ParamsError
from transfer.runtime.params import parse

ROOT = Path(__file__).parents[2]
CHECKPOINTS = {"monitor": "val_loss", "save_best_only": False}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but Python's own, by its place."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the demo reads of the project, in a folder with a space in its name."""
    folder = tmp_path / "a project"
    for name in (*demo.COPIED, ".dvc/config", "params.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    return folder


def read(workspace: Path) -> Any:
    """The workspace's params."""
    return YAML(typ="safe").load(workspace / "params.yaml")


def test_changed_params_keep_their_place_and_comments() -> None:
    """Only the values named change; the others, the order and the comments stay."""
    yaml, text = YAML(), io.StringIO()
    values = yaml.load("a:\n  b: 1  # one\n  c: {d: 2, e: 3}\nf: 4\n")
    yaml.dump(demo.merged(values, {"a": {"b": 5, "c": {"e": 6}}}), text)
    assert text.getvalue() == "a:\n  b: 5  # one\n  c: {d: 2, e: 6}\nf: 4\n"


def test_a_value_in_the_place_of_a_section_is_refused() -> None:
    """A mistake in params.yaml that no stage has met yet is no traceback of the demo's."""
    with pytest.raises(ParamsError, match=r"must have a section with epochs\. Received: 3"):
        demo.merged({"train_head": {"training": 3}}, {"train_head": {"training": {"epochs": 4}}})


def test_what_the_demo_changes_are_params() -> None:
    """Every value that the demo sets is one of params.yaml."""

    def unknown(changes: dict[str, Any], params: dict[str, Any]) -> list[str]:
        deeper = [found for name in changes.keys() & params for found in unknown_in(changes[name], params[name])]
        return [*(changes.keys() - params), *deeper]

    def unknown_in(change: Any, value: Any) -> list[str]:
        return unknown(change, value) if isinstance(change, dict) else []

    assert unknown(demo.PARAMS, read(ROOT)) == []


@pytest.mark.parametrize(
    ("stage", "section", "changes"),
    [
        ("fine_tune", "training", {"model_checkpoint": CHECKPOINTS | {"save_freq": 15}}),
        ("train_head", "training", {"model_checkpoint": CHECKPOINTS | {"save_freq": 60}}),
        ("extract_features", "augmentation", {"horizontal_flip": False, "rotation": 0.0, "zoom": 1.0}),
    ],
    ids=["fine_tune", "train_head", "extract_features"],
)
def test_what_a_user_may_ask_for_does_not_forbid_the_demo(
    project: Path, stage: str, section: str, changes: dict[str, Any]
) -> None:
    """Params that go with the user's own others go with the demo's."""
    Params = importlib.import_module(f"tasks.{stage}").Params  # noqa: N806 - its name there
    mine = read(project)
    mine["extract_features"]["views"] = 0
    mine[stage][section] |= changes
    parse(stage, mine[stage], Params)
    YAML().dump(mine, project / "params.yaml")
    demo.prepare(project, project / ".cache/demo")
    parse(stage, read(project / ".cache/demo")[stage], Params)


def test_what_the_demo_resets_is_as_it_comes() -> None:
    """Where the user has changed nothing, the demo changes only what makes it small."""
    for stage in ("train_head", "fine_tune"):
        assert read(ROOT)[stage]["training"]["model_checkpoint"] is None
    assert read(ROOT)["extract_features"]["augmentation"]["horizontal_flip"] is True


def test_preparing_touches_nothing_of_the_project(project: Path) -> None:
    """A prepared workspace has the project's own code and other params; the project's files are as they were."""
    before = contents(project)
    demo.prepare(project, project / ".cache/demo")
    after = contents(project)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[:2] for name in after.keys() - before} == {(".cache", "demo")}
    workspace = contents(project / ".cache/demo")
    assert {name for name in before if workspace[name] != before[name]} == {"params.yaml", ".dvc/config"}
    assert read(project)["download"]["source"] != "generated"
    assert read(project / ".cache/demo")["download"]["source"] == "generated"


def test_preparing_again_keeps_results_and_follows_the_code(project: Path, tmp_path: Path) -> None:
    """Earlier results and memo stay; modules that the project no longer has go."""
    workspace = tmp_path / "demo"
    demo.prepare(project, workspace)
    for kept in ("dvc.lock", "artifacts/split/manifest.csv", ".cache/features/x/y.npz"):
        (workspace / kept).parent.mkdir(parents=True, exist_ok=True)
        (workspace / kept).write_text("kept")
    before = contents(workspace)
    (project / "tasks/split.py").unlink()
    demo.prepare(project, workspace)
    assert contents(workspace) == {name: data for name, data in before.items() if name != "tasks/split.py"}


def test_the_table_has_both_networks() -> None:
    """The scores end as a table with a line a network; figures of both together and of single classes are left out."""
    scores = {"accuracy": 0.5, "log_loss": 0.25, "recall": {"cat": 1.0, "dog": 0.0}}
    lines = demo.table({"train_head": scores, "fine_tune": {**scores, "accuracy": 1.0}, "mcnemar_p": 0.1}).splitlines()
    assert [line.split() for line in lines] == [
        ["accuracy", "log_loss"],
        ["train_head", "0.5000", "0.2500"],
        ["fine_tune", "1.0000", "0.2500"],
    ]


def test_a_stage_that_fails_fails_the_demo(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo ends with a failure and the stage's own words, and promises no report."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(demo, "PARAMS", {"download": {"source": "nowhere"}})
    with pytest.raises(SystemExit) as end:
        demo.main()
    assert end.value.code != 0
    said = capfd.readouterr()
    assert "`download.source` must be" in said.err
    assert "Report:" not in said.out


@pytest.mark.reliability("disk", "full when the demo or a sweep copies the code", "exit 74; the folder is named")
@pytest.mark.parametrize("command", [["demo"], ["sweep", "optimizer"]], ids=lambda command: command[0])
def test_a_workspace_that_does_not_fit(project: Path, command: list[str]) -> None:
    """A disk that is full before DVC is started ends both in one line."""
    shutil.copy2(ROOT / "sweeps.yaml", project)
    with disks.small(project / ".cache", "size=64k") as disk:
        there = [*disk.entering, "sh", "-c", 'cd .. && exec "$@"', "sh", sys.executable, "-m", f"flows.{command[0]}"]
        environment = {**demo.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*there, *command[1:]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"The disk of `.cache/{command[0]}/")
    assert "Received: no space left on device" in line
