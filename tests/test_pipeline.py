"""The pipeline under DVC: all stages run once by the demo, then after changes of parameters and files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import demo, sandbox
from tests import disks
from tests.conftest import Reproduced, copy_workspace, digests, dvc, small_demo

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.long
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.fixture(scope="module")
def workspace(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the demo's workspace; a test that changes it also restores it."""
    folder = tmp_path_factory.mktemp("pipeline") / "a workspace"
    copy_workspace(reproduced.workspace, folder)
    return folder


def ran(output: str) -> list[str]:
    """Return the stages that DVC ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def restored(output: str) -> list[str]:
    """Return the stages whose earlier outputs DVC restored from its cache."""
    return re.findall(r"Stage '(\w+)' is cached - skipping run", output)


def test_the_demo_makes_every_output(reproduced: Reproduced) -> None:
    """One command makes all outputs of all stages, in a folder with a space in its name, and prints where they are."""
    outputs = [
        output if isinstance(output, str) else next(iter(output))
        for stage in STAGES.values()
        for output in (*stage["outs"], *stage.get("metrics", []), *stage.get("plots", []))
    ]
    assert [output for output in outputs if not (reproduced.workspace / output).exists()] == []
    places = re.findall(r"^(?:Report|Model|Metrics): +(.+)$", reproduced.output, re.MULTILINE)
    assert len(places) == 3
    assert all((reproduced.project / place).is_file() for place in places)


def test_the_demo_does_not_change_the_project(reproduced: Reproduced) -> None:
    """All files of the demo are in `.cache/`; params.yaml, dvc.lock and everything else stay the same."""
    assert digests(reproduced.project) == reproduced.before


def test_a_second_demo_runs_no_stage(
    reproduced: Reproduced, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage is up to date when the demo runs again."""
    shutil.copytree(reproduced.project, tmp_path / "project", ignore=shutil.ignore_patterns(".cache"))
    monkeypatch.chdir(tmp_path / "project")
    copy_workspace(reproduced.workspace, Path(demo.WORKSPACE))
    with small_demo():
        demo.main()
    output = capfd.readouterr().out
    assert ran(output) == restored(output) == []
    assert "up to date" in output
    assert "Report:" in output


def test_a_changed_parameter_reruns_its_stage_and_those_after_it(workspace: Path) -> None:
    """Another dropout trains and evaluates but extracts no features; the old value restores the old results."""
    params, scores = workspace / "params.yaml", workspace / "artifacts/evaluate/metrics.json"
    text, expected = params.read_text(), scores.read_text()
    yaml = YAML()
    document = yaml.load(text)
    document["train_head"]["head"]["dropout"] = 0.25
    yaml.dump(document, params)
    assert {*ran(dvc(workspace, "repro"))} == {"train_head", "fine_tune", "evaluate", "export"}
    assert scores.read_text() != expected

    params.write_text(text)
    output = dvc(workspace, "repro")
    assert ran(output) == []
    assert {*restored(output)} == {"train_head", "fine_tune", "evaluate", "export"}
    assert scores.read_text() == expected


@pytest.mark.reliability(
    "training",
    "the loss becomes NaN",
    "with the earlier parameters, dvc repro restores the earlier model without training",
)
def test_a_failed_training_run_loses_no_model(workspace: Path) -> None:
    """DVC removes a stage's outputs before it runs; the earlier ones in its cache return with their parameters."""
    params, head = workspace / "params.yaml", workspace / "artifacts/train_head"
    text, expected = params.read_text(), digests(head)
    yaml = YAML()
    document = yaml.load(text)
    document["train_head"]["head"]["l2"] = 1e30
    document["train_head"]["training"] |= {"optimizer": "sgd", "learning_rate": 1.0}
    yaml.dump(document, params)
    failed = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=workspace,
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert failed.returncode != 0
    assert "`dvc repro` brings an earlier model back without training." in failed.stdout
    assert not list(head.rglob("*.keras"))

    params.write_text(text)
    assert ran(dvc(workspace, "repro")) == []
    assert digests(head) == expected


@pytest.mark.reliability(
    "tampered", "an output was changed after its stage made it", "dvc repro restores the output of the stage"
)
def test_a_changed_output_is_restored(workspace: Path) -> None:
    """A manifest, a row of features, a model and a card that were rewritten are not used, and no stage has to run."""
    artifacts = workspace / "artifacts"
    expected = digests(artifacts)
    row = next((artifacts / "extract_features/0").glob("*.npz"))
    for file in (artifacts / "split/manifest.csv", row, *sorted((artifacts / "fine_tune").glob("model.*"))):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + b"\n")
    assert ran(dvc(workspace, "repro")) == []
    assert digests(artifacts) == expected


@pytest.mark.reliability("disk", "full when DVC caches an output", "DVC names file and disk; the next run continues")
def test_dvc_continues_when_its_cache_has_space_again(tmp_path: Path) -> None:
    """DVC copies a stage's outputs into its cache; a full disk is an error, and with more space it copies them."""
    with disks.small(tmp_path / "disk", "size=16m") as disk:
        for name in (*sandbox.COPIED, ".dvc/config"):
            (disk.path / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, disk.path / name)
        (disk.path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        sections = YAML(typ="safe").load(ROOT / "params.yaml")
        sections["download"] |= {"source": "generated", "generated": {"photographs": 134, "size": 256, "seed": 0}}
        (disk.path / "params.yaml").write_text(json.dumps(sections))

        def repro() -> "subprocess.CompletedProcess[str]":
            command = [*disk.entering, sys.executable, "-m", "dvc", "repro", "--single-item", "download"]
            return subprocess.run(command, env=sandbox.environment(), capture_output=True, text=True, check=False)

        filler = disk.path / "other"
        filler.write_bytes(bytes(disks.free(disk) - 4_200_000))
        failed = repro()
        assert failed.returncode == 255
        assert re.search(r"^ERROR: .*No space left on device.*\.dvc/cache/", failed.stderr, re.MULTILINE)
        assert "Traceback" not in failed.stderr
        filler.unlink()
        again = repro()
        assert again.returncode == 0, again.stderr
        assert (disk.path / "artifacts/download/photos.zip").stat().st_nlink == 2  # the cache has it


def test_dvc_shows_the_scores(workspace: Path) -> None:
    """`dvc metrics show` has both models' accuracy and log loss."""
    shown = json.loads(dvc(workspace, "metrics", "show", "--json"))
    files = {Path(path).as_posix(): file["data"] for path, file in shown[""]["data"].items()}
    for model in ("train_head", "fine_tune"):
        assert {"accuracy", "log_loss"} <= files["artifacts/evaluate/metrics.json"][model].keys()


def test_dvc_shows_the_plots(workspace: Path, tmp_path: Path) -> None:
    """`dvc plots show` draws learning curves, confusion, ROC and reliability."""
    dvc(workspace, "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for title in ("Learning curves", "Confusion", "ROC", "Reliability"):
        assert title in page
