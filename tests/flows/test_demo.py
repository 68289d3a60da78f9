import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import demo, sandbox
from tests import disks
from transfer.runtime.params import parse

ROOT = Path(__file__).parents[2]
CHECKPOINTS = {"monitor": "val_loss", "save_best_only": False}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder by its path, without Python's bytecode."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the files that the demo reads, in a folder with a space in its name."""
    folder = tmp_path / "a project"
    for name in (*sandbox.COPIED, ".dvc/config", "params.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    return folder


def read(workspace: Path) -> Any:
    """Return the content of params.yaml in a workspace."""
    return YAML(typ="safe").load(workspace / "params.yaml")


def test_the_demo_changes_existing_parameters() -> None:
    """Every parameter that the demo sets is in params.yaml."""

    def unknown(changes: dict[str, Any], params: dict[str, Any]) -> list[str]:
        deeper = [missing for name in changes.keys() & params for missing in unknown_in(changes[name], params[name])]
        return [*(changes.keys() - params), *deeper]

    def unknown_in(change: Any, value: Any) -> list[str]:
        return unknown(change, value) if isinstance(change, dict) else []

    assert unknown(demo.PARAMS, read(ROOT)) == []


def test_corrections_of_the_user_are_not_those_of_the_demo(project: Path) -> None:
    """They name photographs that the demo does not have."""
    (project / "corrections.csv").write_text(f"sha256,class,note\n{'ab' * 32},dog,\n")
    demo.prepare(project, project / ".cache/demo")
    assert (project / ".cache/demo/corrections.csv").read_text() == "sha256,class,note\n"


@pytest.mark.parametrize(
    ("stage", "section", "changes"),
    [
        ("fine_tune", "training", {"epochs": 15, "model_checkpoint": CHECKPOINTS | {"save_freq": 15}}),
        ("train_head", "training", {"model_checkpoint": CHECKPOINTS | {"save_freq": 60}}),
        ("extract_features", "augmentation", {"horizontal_flip": False, "rotation": 0.0, "zoom": 1.0}),
    ],
    ids=["fine_tune", "train_head", "extract_features"],
)
def test_valid_params_of_a_user_are_valid_in_the_demo(
    project: Path, stage: str, section: str, changes: dict[str, Any]
) -> None:
    """Parameters that are valid together with the user's others are valid together with the demo's."""
    Params = importlib.import_module(f"tasks.{stage}").Params  # noqa: N806 - its name there
    document = read(project)
    document["extract_features"]["views"] = 0
    document[stage][section] |= changes
    parse(stage, document[stage], Params)
    YAML().dump(document, project / "params.yaml")
    demo.prepare(project, project / ".cache/demo")
    parse(stage, read(project / ".cache/demo")[stage], Params)


def test_params_that_the_demo_resets_have_their_defaults() -> None:
    """If the user has changed nothing, the demo changes only parameters that make it small."""
    for stage in ("train_head", "fine_tune"):
        assert read(ROOT)[stage]["training"]["model_checkpoint"] is None
    assert read(ROOT)["extract_features"]["augmentation"]["horizontal_flip"] is True


def test_preparing_changes_nothing_of_the_project(project: Path) -> None:
    """A prepared workspace has the project's code and other parameters; the project's files do not change."""
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
    """Earlier results and the feature cache stay; modules that the project no longer has are removed."""
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
    """The table has a line for each network; scores of both together and of single classes are left out."""
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
    """The demo ends with an error, the stage's message, and no path of a report."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(demo, "PARAMS", {"download": {"source": "nowhere"}})
    with pytest.raises(SystemExit) as end:
        demo.main()
    assert end.value.code != 0
    output = capfd.readouterr()
    assert "`download.source` must be" in output.err
    assert "Report:" not in output.out


@pytest.mark.reliability("disk", "full when the demo or a sweep copies the code", "exit 74; the folder is named")
@pytest.mark.parametrize("command", [["demo"], ["sweep", "optimizer"]], ids=lambda command: command[0])
def test_a_full_disk_is_named(project: Path, command: list[str]) -> None:
    """A disk that is full before DVC starts ends the demo and a sweep with one line."""
    shutil.copy2(ROOT / "sweeps.yaml", project)
    (project / "dvc.lock").touch()
    with disks.small(project / ".cache", "size=64k") as disk:
        there = [*disk.entering, "sh", "-c", 'cd .. && exec "$@"', "sh", sys.executable, "-m", f"flows.{command[0]}"]
        environment = {**sandbox.environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*there, *command[1:]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"The disk of `.cache/{command[0]}/")
    assert "Received: no space left on device" in line
