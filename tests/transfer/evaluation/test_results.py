import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfer.evaluation import results
from transfer.evaluation.scores import Comparison, score
from transfer.images import manifest
from transfer.training import history

ROOT = Path(__file__).parents[3]
CLASSES = ["cat", "dog"]
LABELS = np.array([0, 1, 1])
PROBABILITIES = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
EVALUATION = score(LABELS, PROBABILITIES, confidence=0.95, bins=10)
EVALUATIONS = {"train_head": EVALUATION, "fine_tune": EVALUATION}


def entry(number: int, class_name: str, split: str = "test") -> manifest.Entry:
    """A photograph's entry in the manifest."""
    return manifest.Entry(f"photos/{class_name}/{number}.jpg", class_name, f"{number:064x}", 10, 10, split)


def template_fields(template: Any) -> Iterator[str]:
    """Yield the data fields that a plot's template uses, without those that it computes itself."""
    if isinstance(template, dict):
        computed = {transform["as"] for transform in template.get("transform", []) if "as" in transform}
        for key, value in template.items():
            if key == "field" and isinstance(value, str):
                yield value
            elif key == "repeat" and isinstance(value, dict):
                yield from value["row"]
            else:
                yield from (name for name in template_fields(value) if name not in computed)
    elif isinstance(template, list):
        for element in template:
            yield from template_fields(element)


@pytest.mark.parametrize("name", ["learning_curves", "confusion", "roc", "reliability"])
def test_every_field_of_a_template_is_in_its_data(name: str) -> None:
    """The data of a plot has every field that its template for `dvc plots` uses, in every row."""
    row = {"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}
    epochs = history.concatenate([history.Phase("train_head", [row], 1), history.Phase("fine_tune", [row], None)])
    data = results.plots(epochs, EVALUATIONS, CLASSES)[name]
    template = json.loads((ROOT / ".dvc/plots" / f"{name}.json").read_text())
    assert all(set(row) == set(data[0]) for row in data)
    assert set(template_fields(template)) - {"rev"} <= set(data[0])


def test_confusion_has_counts_and_fractions_of_the_true_class() -> None:
    """Each cell has its count, and the fraction of its true class."""
    cells = results.plots([], {"fine_tune": EVALUATION}, CLASSES)["confusion"]
    assert [(cell["actual"], cell["predicted"]) for cell in cells] == [
        ("cat", "cat"),
        ("cat", "dog"),
        ("dog", "cat"),
        ("dog", "dog"),
    ]
    assert [cell["photographs"] for cell in cells] == [1, 0, 1, 1]
    assert [cell["of_actual"] for cell in cells] == [1.0, 0.0, 0.5, 0.5]


def test_metrics_have_the_scores_of_each_class() -> None:
    """Recall and precision are given by class name; the precision of a class that is never predicted is null."""
    always_cat = score(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), confidence=0.95, bins=10)
    content = results.metrics({"fine_tune": always_cat}, Comparison(1, 9, 0.25), CLASSES, photographs=2)
    assert content["fine_tune"]["recall"] == {"cat": 1.0, "dog": 0.0}
    assert content["fine_tune"]["precision"] == {"cat": 0.5, "dog": None}
    assert (content["mcnemar_p"], content["test_photographs"]) == (0.25, 2)


def test_predictions_have_a_row_a_photograph() -> None:
    """Each row has, for each network, the predicted class, its probability, and the probabilities of all classes."""
    photographs = [entry(0, "cat"), entry(1, "dog"), entry(2, "dog")]
    text = results.predictions(photographs, {"fine_tune": PROBABILITIES}, CLASSES)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == [photograph.path for photograph in photographs]
    assert rows[2] == {
        "path": "photos/dog/2.jpg",
        "sha256": f"{2:064x}",
        "class": "dog",
        "fine_tune_class": "cat",
        "fine_tune_confidence": "0.7",
        "fine_tune_probability_cat": "0.7",
        "fine_tune_probability_dog": "0.3",
    }


def test_predictions_name_the_users_files() -> None:
    """The predictions for photographs of the inbox have the file that the user knows beside the copy's path."""
    photographs = [entry(0, "cat")._replace(source="inbox/my cats/a.jpg"), entry(1, "dog"), entry(2, "dog")]
    text = results.predictions(photographs, {"fine_tune": PROBABILITIES}, CLASSES)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["path"], row["source"]) for row in rows][:2] == [
        ("photos/cat/0.jpg", "inbox/my cats/a.jpg"),
        ("photos/dog/1.jpg", ""),
    ]


def test_predictions_have_no_formulas() -> None:
    """A class that a spreadsheet would take for a formula gets an apostrophe."""
    text = results.predictions([entry(0, "=cat")], {"fine_tune": np.array([[0.8, 0.2]])}, ["=cat", "dog"])
    row = next(csv.DictReader(io.StringIO(text)))
    assert (row["class"], row["fine_tune_class"]) == ("'=cat", "'=cat")


def test_plots_have_the_names_of_networks() -> None:
    """The data of `dvc plots` call the networks as the report does."""
    data = results.plots([], EVALUATIONS, CLASSES)
    for name in ("confusion", "roc", "reliability"):
        assert {row["model"] for row in data[name]} == {"head", "fine-tuned"}


def test_probabilities_keep_the_digits_of_float32() -> None:
    """A float32 probability can be recovered from predictions.csv."""
    probability = np.float32(1) / np.float32(3)
    text = results.predictions([entry(0, "cat")], {"fine_tune": np.array([[1 - probability, probability]])}, CLASSES)
    assert np.float32(text.splitlines()[1].split(",")[-1]) == probability


def test_the_table_has_a_line_a_network() -> None:
    """The table for a terminal has the scores of each network under their names, aligned to the right."""
    heading, *lines = results.table(
        {stage: evaluation.scores for stage, evaluation in EVALUATIONS.items()}, confidence=0.9
    ).splitlines()
    headings = ["accuracy", "90 % interval", "balanced", "log loss", "ROC AUC", "calibration error"]
    assert heading.split() == " ".join(headings).split()
    assert [line.split()[0] for line in lines] == ["head", "fine-tuned"]
    assert {len(line) for line in (heading, *lines)} == {len(heading)}
    assert f"66.7 %   {100 * EVALUATION.scores.accuracy_low:.1f} to" in lines[0]


def test_photographs_are_counted_by_split_and_class() -> None:
    """Each split has a count for each class, zeros included, and "all" has their sums."""
    photographs = [entry(0, "cat", "train"), entry(1, "cat", "train"), entry(2, "dog", "train"), entry(3, "dog")]
    assert results.split_counts(photographs, CLASSES) == {
        "train": {"cat": 2, "dog": 1},
        "validation": {"cat": 0, "dog": 0},
        "test": {"cat": 0, "dog": 1},
        "all": {"cat": 2, "dog": 2},
    }
