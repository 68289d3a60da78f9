"""The pipeline as DVC runs it: all stages, once, through the demo; then what changes do."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import demo
from tests import disks
from tests.conftest import Reproduced, contents, dvc, small_demo

ROOT = Path(__file__).parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def ran(said: str) -> list[str]:
    """The stages that DVC ran."""
    return re.findall(r"Running stage '(\w+)'", said)


def restored(said: str) -> list[str]:
    """The stages whose earlier result DVC brought back."""
    return re.findall(r"Stage '(\w+)' is cached - skipping run", said)


def test_the_demo_makes_everything(reproduced: Reproduced) -> None:
    """One command makes every output of every stage, in a folder with a space in its name, and says where to look."""
    outputs = [
        output if isinstance(output, str) else next(iter(output))
        for stage in STAGES.values()
        for output in (*stage["outs"], *stage.get("metrics", []), *stage.get("plots", []))
    ]
    assert [output for output in outputs if not (reproduced.workspace / output).exists()] == []
    places = re.findall(r"^(?:Report|Model|Metrics): +(.+)$", reproduced.said, re.MULTILINE)
    assert len(places) == 3
    assert all((reproduced.project / place).is_file() for place in places)


def test_the_demo_leaves_the_project_as_it_was(reproduced: Reproduced) -> None:
    """The demo's files are all in `.cache/`: params, lock and everything else of the project are as before."""
    assert contents(reproduced.project) == reproduced.before


def test_again_nothing_runs(
    reproduced: Reproduced, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run once more, the demo finds everything up to date."""
    monkeypatch.chdir(reproduced.project)
    with small_demo():
        demo.main()
    said = capfd.readouterr().out
    assert ran(said) == restored(said) == []
    assert "up to date" in said
    assert "Report:" in said


def test_a_change_reruns_what_depends_on_it_and_back_restores_it(reproduced: Reproduced) -> None:
    """Another dropout retrains and evaluates but extracts nothing; the old one again brings the old results back."""
    params, scores = reproduced.workspace / "params.yaml", reproduced.workspace / "artifacts/evaluate/metrics.json"
    text, expected = params.read_text(), scores.read_text()
    yaml = YAML()
    document = yaml.load(text)
    document["train_head"]["head"]["dropout"] = 0.25
    yaml.dump(document, params)
    assert ran(dvc(reproduced.workspace, "repro")) == ["train_head", "fine_tune", "evaluate"]
    assert scores.read_text() != expected

    params.write_text(text)
    said = dvc(reproduced.workspace, "repro")
    assert ran(said) == []
    assert restored(said) == ["train_head", "fine_tune", "evaluate"]
    assert scores.read_text() == expected


@pytest.mark.reliability(
    "training",
    "the loss becomes NaN",
    "with the params from before, dvc repro has the earlier model back without training",
)
def test_a_training_that_fails_loses_no_model(reproduced: Reproduced) -> None:
    """DVC clears the place before a stage runs; what lay there is in its cache, and comes back with its params."""
    params, head = reproduced.workspace / "params.yaml", reproduced.workspace / "artifacts/train_head"
    text, expected = params.read_text(), contents(head)
    yaml = YAML()
    document = yaml.load(text)
    document["train_head"]["head"]["l2"] = 1e30
    document["train_head"]["training"] |= {"optimizer": "sgd", "learning_rate": 1.0}
    yaml.dump(document, params)
    failed = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=reproduced.workspace,
        env=demo.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert failed.returncode != 0
    assert "`dvc repro` brings an earlier model back without training." in failed.stdout
    assert not list(head.rglob("*.keras"))

    params.write_text(text)
    assert ran(dvc(reproduced.workspace, "repro")) == []
    assert contents(head) == expected


@pytest.mark.reliability(
    "tampered", "any output that was changed since its stage made it", "dvc repro puts back what the stage made"
)
def test_what_was_changed_is_put_back(reproduced: Reproduced) -> None:
    """A manifest, a row of features, a model and a card that were rewritten are not used, and need no stage to run."""
    artifacts = reproduced.workspace / "artifacts"
    expected = contents(artifacts)
    row = next((artifacts / "extract_features/0").glob("*.npz"))
    for file in (artifacts / "split/manifest.csv", row, *sorted((artifacts / "fine_tune").glob("model.*"))):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + b"\n")
    assert ran(dvc(reproduced.workspace, "repro")) == []
    assert contents(artifacts) == expected


@pytest.mark.reliability("disk", "full when DVC keeps an output", "DVC names file and disk; the next run goes on")
def test_dvc_goes_on_when_its_cache_has_room_again(tmp_path: Path) -> None:
    """DVC copies what a stage has made into its cache: it says if that does not fit, and repeats it with more room."""
    with disks.small(tmp_path / "disk", "size=16m") as disk:
        for name in (*demo.COPIED, ".dvc/config"):
            (disk.path / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, disk.path / name)
        (disk.path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        sections = YAML(typ="safe").load(ROOT / "params.yaml")
        sections["download"] |= {"source": "generated", "generated": {"photographs": 100, "size": 256, "seed": 0}}
        (disk.path / "params.yaml").write_text(json.dumps(sections))

        def repro() -> "subprocess.CompletedProcess[str]":
            command = [*disk.entering, sys.executable, "-m", "dvc", "repro", "--single-item", "download"]
            return subprocess.run(command, env=demo.environment(), capture_output=True, text=True, check=False)

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


def test_dvc_shows_the_scores(reproduced: Reproduced) -> None:
    """`dvc metrics show` has both models' accuracy and log loss."""
    shown = json.loads(dvc(reproduced.workspace, "metrics", "show", "--json"))
    files = {Path(path).as_posix(): file["data"] for path, file in shown[""]["data"].items()}
    for model in ("train_head", "fine_tune"):
        assert {"accuracy", "log_loss"} <= files["artifacts/evaluate/metrics.json"][model].keys()


def test_dvc_shows_the_plots(reproduced: Reproduced, tmp_path: Path) -> None:
    """`dvc plots show` draws learning curves, confusion, ROC and reliability."""
    dvc(reproduced.workspace, "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for title in ("Learning curves", "Confusion", "ROC", "Reliability"):
        assert title in page


def test_a_typo_is_named_before_anything_runs(tmp_path: Path) -> None:
    """`python -m tasks` ends with 78 and names every mistake in params.yaml, whatever the stage."""
    text = (ROOT / "params.yaml").read_text()
    mistaken = text.replace("frozen_through:", "frozen_trough:").replace("confidence: 0.95", "confidence: 95")
    (tmp_path / "params.yaml").write_text(mistaken)
    result = subprocess.run(
        [sys.executable, "-m", "tasks", "--check"],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 78
    assert "`extract_features.frozen_trough` is not a parameter" in result.stderr
    assert "`evaluate.confidence` must be less than 1. Received: 95" in result.stderr
    assert "Traceback" not in result.stderr
