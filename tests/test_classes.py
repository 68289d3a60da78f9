"""The pipeline on a user's own photographs of five classes, from the inbox to the report."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from flows import demo
from tests import stages
from tests.conftest import SMALLER, dvc
from transfer.evaluation import names
from transfer.network import saving
from transfer.sources import synthetic

CLASSES = sorted(synthetic.CLASSES)
PHOTOGRAPHS_PER_CLASS = 14
PARAMS: dict[str, dict[str, Any]] = {
    **SMALLER,
    "download": {"source": "inbox"},
    "fetch_weights": {"source": "random"},
    "subsample": {"photographs": PHOTOGRAPHS_PER_CLASS * len(CLASSES)},
    "split": {"validation": 0.3, "test": 0.3},
    "extract_features": {"image_size": 32, "views": 1, "precision": "float32"},
}
MODELS = ("train_head", "fine_tune")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a pipeline whose inbox had pictures of five classes, one of them broken."""
    folder = tmp_path_factory.mktemp("classes") / "five"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PARAMS", PARAMS)
        demo.prepare(stages.ROOT, folder)
    for name in CLASSES:
        (folder / "inbox" / name).mkdir()
        for index in range(PHOTOGRAPHS_PER_CLASS):
            picture = synthetic.draw(name, index, size=40, seed=0)
            (folder / "inbox" / name / f"{index}.jpg").write_bytes(picture)
    (folder / "inbox" / "bear" / "broken & <b>.jpg").write_bytes(b"no picture")
    stages.run_all(folder)
    return folder / "artifacts"


@pytest.mark.parametrize("file", ["train_head/head.keras", "fine_tune/model.keras"])
def test_both_networks_have_an_output_per_class(artifacts: Path, file: str) -> None:
    """A network of five classes ends in a softmax of five, and its card lists the classes in the order of outputs."""
    network = saving.load(artifacts / file)
    head = network.layers[-1]
    output = getattr(head, "layers", [head])[-1]
    assert network.output_shape == (None, 5)
    assert output.activation.__name__ == "softmax"
    assert json.loads((artifacts / file).with_name("model.json").read_text())["classes"] == CLASSES


def test_every_prediction_has_five_probabilities(artifacts: Path) -> None:
    """Each line of predictions.csv has a probability per class; they add up to one, and the largest is predicted."""
    with (artifacts / "evaluate/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["class"] for line in lines} == set(CLASSES)
    for line in lines:
        for model in MODELS:
            probabilities = {name: float(line[f"{model}_probability_{name}"]) for name in CLASSES}
            assert sum(probabilities.values()) == pytest.approx(1)
            assert probabilities[line[f"{model}_class"]] == max(probabilities.values())


@pytest.mark.parametrize("model", MODELS)
def test_the_plots_have_five_classes(artifacts: Path, model: str) -> None:
    """The confusion is five by five and counts every test photograph; ROC and reliability have a curve."""
    plots = {path.stem: json.loads(path.read_text()) for path in (artifacts / "evaluate/plots").iterdir()}
    confusion, roc, reliability = (
        [row for row in plots[name] if row["model"] == names.network(model)]
        for name in ("confusion", "roc", "reliability")
    )
    assert [(row["actual"], row["predicted"]) for row in confusion] == [
        (actual, predicted) for actual in CLASSES for predicted in CLASSES
    ]
    assert sum(row["photographs"] for row in confusion) == sum(row["photographs"] for row in reliability)
    assert (roc[0]["false_positive_rate"], roc[-1]["true_positive_rate"]) == (0, 1)
    assert len(roc) > 5


def test_dvc_shows_the_scores_of_each_class(artifacts: Path) -> None:
    """`dvc metrics show` has recall and precision of each class, by the class's name."""
    shown = json.loads(dvc(artifacts.parent, "metrics", "show", "--json"))[""]["data"]
    metrics = shown["artifacts/evaluate/metrics.json"]["data"]
    for model in MODELS:
        assert list(metrics[model]["recall"]) == CLASSES
        assert set(metrics[model]["precision"]) <= set(CLASSES)  # no precision for a class that is never predicted


def test_the_report_has_all_five_classes(artifacts: Path) -> None:
    """The report names all classes in its title, has scores of each, and shows the broken file's name literally."""
    html = (artifacts / "evaluate/report.html").read_text()
    assert "<h1>bear, cat, dog, mouse or rabbit?</h1>" in html
    # a row in both networks' confusion and scores, one in the table of answers, and one in that of splits
    assert {name: html.count(f'<th scope="row">{name}</th>') for name in CLASSES} == dict.fromkeys(CLASSES, 6)
    assert "Mean over classes, each against all others." in html
    assert "broken &amp; &lt;b&gt;.jpg" in html
