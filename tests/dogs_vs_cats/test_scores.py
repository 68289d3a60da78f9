import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dogs_vs_cats import scores
from transfer.runtime.errors import DataError

OF_NETWORK = {
    "accuracy": 0.9,
    "accuracy_low": 0.8,
    "accuracy_high": 0.95,
    "log_loss": 0.25,
    "roc_auc": 0.975,
    "calibration_error": 0.0125,
    "recall": {"cat": 1.0, "dog": 0.8},
}
PARAMS = {
    "train_head": {"training": {"epochs": 60, "early_stopping": {"monitor": "val_loss"}}},
    "evaluate": {"bins": 10},
}


def git(folder: Path, *arguments: str) -> str:
    """Run Git in a folder; return its output."""
    identity = ("-c", "user.name=test", "-c", "user.email=test")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def write(folder: Path, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Write the scores and parameters of a project."""
    (folder / "artifacts/evaluate").mkdir(parents=True, exist_ok=True)
    (folder / scores.METRICS).write_text(json.dumps(metrics))
    YAML().dump(params, folder / "params.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with committed scores, and other scores and parameters in an experiment and in the workspace."""
    git(tmp_path, "init", "-q")
    folder = tmp_path / "below the repository"
    write(folder, {"train_head": OF_NETWORK, "fine_tune": OF_NETWORK, "mcnemar_p": 1.0}, PARAMS)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    changed = {"train_head": {"training": {"epochs": 7, "early_stopping": None}}, "evaluate": {"bins": 10}}
    write(folder, {"train_head": OF_NETWORK, "fine_tune": {**OF_NETWORK, "accuracy": 0.925}}, changed)
    tree = git(folder, "stash", "create")
    git(folder, "update-ref", "refs/exps/aa/bbbb/less-epochs", tree)
    return folder


def test_the_table_is_that_of_the_evaluation(project: Path) -> None:
    """Without a revision the scores of the workspace are shown, one line a network."""
    heading, head, tuned = scores.show(project).splitlines()
    headings = ["accuracy", "95 % interval", "balanced", "log loss", "ROC AUC", "calibration error"]
    assert heading.split() == " ".join(headings).split()
    assert head.split()[:3] == ["head", "90.0", "%"]
    assert tuned.split()[:3] == ["fine-tuned", "92.5", "%"]


@pytest.mark.parametrize("versions", [("HEAD",), ("HEAD", "less-epochs")], ids=["workspace", "experiment"])
def test_two_versions_stand_side_by_side(project: Path, versions: tuple[str, ...]) -> None:
    """A revision is compared with the workspace or an experiment: scores, changes and parameters that differ."""
    lines = scores.compare(project, *versions).splitlines()
    assert max(map(len, lines)) <= scores.WIDTH
    assert lines[0] == "before: HEAD"
    assert ["fine-tuned", "accuracy", "0.9000", "0.9250", "+0.0250"] in [line.split() for line in lines]
    parameters = [line.split() for line in lines if line.startswith("train_head.")]
    assert parameters == [
        ["train_head.training.epochs", "60", "7"],
        ["train_head.training.early_stopping", "-", "null"],
        ["train_head.training.early_stopping.monitor", "val_loss", "-"],
    ]


def test_long_values_are_cut() -> None:
    """The longest name of a parameter and two long values fit into the width."""
    long = {"train_head": {"training": {"early_stopping": {"restore_best_weights": "x" * 200}}}}
    other = {"train_head": {"training": {"early_stopping": {"restore_best_weights": list(range(100))}}}}
    (row,) = scores.param_rows(long, other)
    assert sum(map(len, row)) + 2 * (len(row) - 1) <= scores.WIDTH


def test_an_unknown_revision_is_named(project: Path) -> None:
    """A name that is neither a revision nor an experiment is refused with the commands that list both."""
    with pytest.raises(DataError, match=r"Received: `nothing`, which is neither.*dvc exp list"):
        scores.compare(project, "nothing")


def test_a_revision_without_scores_is_named(project: Path) -> None:
    """A commit from before the first evaluation has nothing to compare."""
    git(project, "rm", "-q", "--cached", scores.METRICS.as_posix())
    git(project, "commit", "-qm", "without")
    with pytest.raises(DataError, match="`HEAD` must have scores"):
        scores.compare(project, "HEAD")


def test_older_scores_are_marked(project: Path) -> None:
    """If a network was trained after the evaluation, as in a sweep, the scores are those of another network."""
    network = "artifacts/train_head/head.keras"
    lock = {
        "stages": {
            "train_head": {"outs": [{"path": network, "md5": "new"}]},
            "evaluate": {"deps": [{"path": network, "md5": "old"}]},
        }
    }
    YAML().dump(lock, project / "dvc.lock")
    assert scores.show(project).splitlines()[-1].startswith("These scores are older than the results of train_head;")
    lock["stages"]["evaluate"]["deps"][0]["md5"] = "new"
    YAML().dump(lock, project / "dvc.lock")
    assert "older" not in scores.show(project)


def test_damaged_scores_are_named(project: Path) -> None:
    """Files with merge conflicts end in one line."""
    (project / scores.METRICS).write_text("<<<<<<< HEAD\n")
    with pytest.raises(DataError, match="must be readable"):
        scores.show(project)
