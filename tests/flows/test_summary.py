import base64
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from flows import summary
from flows.experiments import Difference
from flows.reproduction import Outcome
from transfer.training import history

OUTCOMES = {
    "download": Outcome("Unchanged", "Nothing has changed."),
    "extract_features": Outcome("Ran", "modified: extract_features", 12.345, 0, 10, 6),
    "train_head": Outcome("Failed", "train_head: no", 1.0, 65),
    "evaluate": Outcome("NotReady", "A stage that it needs has failed."),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which no stage has run; the current folder."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(path: str, content: str = "") -> None:
    """Write an output of a stage."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def test_each_stage_has_a_row() -> None:
    """A row has the stage's outcome, the reason, the seconds, and how many of its rows were computed before."""
    rows = summary.stages(OUTCOMES)
    assert [row["stage"] for row in rows] == list(OUTCOMES)
    assert rows[1] == {
        "stage": "extract_features",
        "state": "Ran",
        "seconds": 12.3,
        "rows reused": "6 of 10",
        "why": "modified: extract_features",
    }
    assert [row["rows reused"] for row in rows] == ["", "6 of 10", "", ""]


def test_no_reused_rows_differ_from_no_rows() -> None:
    """A stage that computed all its rows has the number 0, one without rows has none."""
    rows = summary.stages({"extract_features": Outcome("Ran", "", 1.0, 0, 10, 0)})
    assert rows[0]["rows reused"] == "0 of 10"


def test_outcomes_are_counted() -> None:
    """The count names each outcome once, in the order of the stages."""
    outcomes = [Outcome("Unchanged", ""), Outcome("Ran", ""), Outcome("Unchanged", ""), Outcome("Restored", "")]
    assert summary.counted(outcomes) == "2 unchanged, 1 ran, 1 restored"


def test_scores_have_their_value_before() -> None:
    """Scores of the evaluation have their change, except new and removed ones; those of other stages are left out."""
    evaluation = "artifacts/evaluate/metrics.json"
    rows = summary.scores(
        [
            Difference(evaluation, "fine_tune.accuracy", 0.97, 0.9825),
            Difference(evaluation, "fine_tune.log_loss", 0.05, 0.05),
            Difference(evaluation, "new", None, 1.0),
            Difference(evaluation, "gone", 0.5, None),
            Difference("artifacts/split/metrics.json", "train", 10, 20),
        ]
    )
    assert [(row["score"], row["before"], row["now"], row["change"]) for row in rows] == [
        ("fine_tune.accuracy", 0.97, 0.9825, "+0.0125"),
        ("fine_tune.log_loss", 0.05, 0.05, "+0.0000"),
        ("new", None, 1.0, ""),
        ("gone", 0.5, None, ""),
    ]


def test_params_are_shown_as_text() -> None:
    """Values of any type become text, as they share a column; parameters of the baselines are left out."""
    rows = summary.params(
        [
            Difference("params.yaml", "train_head.head.dense", [256], [128, 64]),
            Difference("baselines/params.yaml", "train.epochs", 1, 2),
        ]
    )
    assert rows == [{"parameter": "train_head.head.dense", "now": "[128, 64]", "before": "[256]"}]


def test_learning_curves_are_a_picture_in_markdown() -> None:
    """The Markdown embeds an SVG with a curve for each split, on a background of its own."""
    phase = history.Phase(
        "train_head",
        [{"loss": 1 / n, "accuracy": 0.5, "val_loss": 1 / n, "val_accuracy": 0.6} for n in range(1, 4)],
        best_epoch=3,
    )
    rows = [epoch._asdict() for epoch in history.concatenate([phase])]
    write("artifacts/evaluate/plots/learning_curves.json", json.dumps(rows))
    match = re.fullmatch(r"!\[[\w ]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", summary.learning_curves())
    assert match
    picture = base64.b64decode(match[1]).decode()
    assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - trusted
    assert "currentColor" not in picture
    assert picture.startswith('<svg style="background: #ffffff"')
    assert {"train", "validation"} <= {*re.findall(r"train\b|validation", picture)}


def test_without_curves_there_is_no_picture() -> None:
    """Before the first evaluation the Markdown is empty."""
    assert summary.learning_curves() == ""


def test_scores_are_in_the_order_of_the_report() -> None:
    """Scores have the order of metrics.json and four digits; a score that is gone comes last."""
    evaluation = "artifacts/evaluate/metrics.json"
    write(evaluation, json.dumps({"train_head": {"accuracy": 0.5, "log_loss": 1.0}, "fine_tune": {"accuracy": 0.75}}))
    names = ["fine_tune.accuracy", "gone", "train_head.accuracy", "train_head.log_loss"]
    rows = summary.scores([Difference(evaluation, name, 1 / 3, 2 / 3) for name in names])
    ordered = ["train_head.accuracy", "train_head.log_loss", "fine_tune.accuracy", "gone"]
    assert [row["score"] for row in rows] == ordered
    assert {(row["before"], row["now"], row["change"]) for row in rows} == {(0.3333, 0.6667, "+0.3333")}


def test_results_have_the_main_scores(folder: Path) -> None:
    """The Markdown has a row of scores for each network, and the paths of the results as text, not as links."""
    scores = {"accuracy": 0.98251, "log_loss": 0.05, "roc_auc": 0.99, "calibration_error": 0.01}
    write("artifacts/evaluate/metrics.json", json.dumps({"confidence": 0.95, "fine_tune": scores}))
    lines = summary.results().splitlines()
    assert lines[0] == "| network | accuracy | log loss | ROC AUC | calibration error |"
    assert lines[2:] == [
        "| fine-tuned | 0.9825 | 0.05 | 0.99 | 0.01 |",
        "",
        f"- Scores: `{folder}/artifacts/evaluate/metrics.json`",
    ]


def test_only_results_that_exist_are_named(folder: Path) -> None:
    """Each path is that of an existing file, in a folder of any name; before the first run there is none."""
    assert summary.results() == ""
    write("artifacts/evaluate/report.html")
    write("artifacts/fine_tune/model.keras")
    assert summary.results().splitlines() == [
        f"- Report: `{folder}/artifacts/evaluate/report.html`",
        f"- Model: `{folder}/artifacts/fine_tune/model.keras`",
    ]
    assert "file:" not in summary.results()
