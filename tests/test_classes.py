"""Own photographs of five classes, from the inbox to the report, as DVC runs it."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import demo
from tests.conftest import SMALLER
from transfer.network import saving
from transfer.sources import synthetic

ROOT = Path(__file__).parent.parent
CLASSES = sorted(synthetic.SHAPES)
EACH = 14  # pictures of a class
PARAMS: dict[str, dict[str, Any]] = {
    **SMALLER,
    "download": {"source": "inbox"},
    "fetch_weights": {"source": "random"},
    "subsample": {"photographs": EACH * len(CLASSES)},
    "split": {"validation": 0.3, "test": 0.3},
    "extract_features": {"image_size": 32, "views": 1},
}
MODELS = ("train_head", "fine_tune")


def dvc(workspace: Path, *arguments: str) -> str:
    """Run DVC, which must succeed; what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace,
        env=demo.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which pictures of five classes lay in the inbox, one of them broken, and the pipeline has run."""
    folder = tmp_path_factory.mktemp("classes") / "five"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PARAMS", PARAMS)
        demo.prepare(ROOT, folder)
    for name in CLASSES:
        (folder / "inbox" / name).mkdir()
        for index in range(EACH):
            picture = synthetic.draw(name, index, size=40, seed=0)
            (folder / "inbox" / name / f"{index}.jpg").write_bytes(picture)
    (folder / "inbox" / "star" / "broken & <b>.jpg").write_bytes(b"no picture")
    dvc(folder, "repro")
    return folder / "artifacts"


@pytest.mark.parametrize("file", ["train_head/head.keras", "fine_tune/model.keras"])
def test_both_networks_have_an_output_a_class(workspace: Path, file: str) -> None:
    """A network of five classes ends in a softmax of five, and its card names them in their order."""
    network = saving.load(workspace / file)
    head = network.layers[-1]
    last = getattr(head, "layers", [head])[-1]
    assert network.output_shape == (None, 5)
    assert last.activation.__name__ == "softmax"
    assert json.loads((workspace / file).with_name("model.json").read_text())["classes"] == CLASSES


def test_every_prediction_has_five_probabilities(workspace: Path) -> None:
    """predictions.csv has a probability for each class, adding up to one, the largest being the class predicted."""
    with (workspace / "evaluate/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["class"] for line in lines} == set(CLASSES)
    for line in lines:
        for model in MODELS:
            each = {name: float(line[f"{model}_probability_{name}"]) for name in CLASSES}
            assert sum(each.values()) == pytest.approx(1)
            assert each[line[f"{model}_class"]] == max(each.values())


@pytest.mark.parametrize("model", MODELS)
def test_the_plots_have_five_classes(workspace: Path, model: str) -> None:
    """The confusion is five by five and counts every test photograph; ROC and reliability have a curve."""
    plots = {path.stem: json.loads(path.read_text()) for path in (workspace / "evaluate/plots").iterdir()}
    confusion, roc, reliability = (
        [row for row in plots[name] if row["model"] == model] for name in ("confusion", "roc", "reliability")
    )
    assert [(row["actual"], row["predicted"]) for row in confusion] == [
        (one, two) for one in CLASSES for two in CLASSES
    ]
    assert sum(row["photographs"] for row in confusion) == sum(row["photographs"] for row in reliability)
    assert (roc[0]["false_positive_rate"], roc[-1]["true_positive_rate"]) == (0, 1)
    assert len(roc) > 5


def test_dvc_shows_the_scores_of_each_class(workspace: Path) -> None:
    """`dvc metrics show` has recall and precision of each class, by the class's name."""
    shown = json.loads(dvc(workspace.parent, "metrics", "show", "--json"))[""]["data"]
    metrics = shown["artifacts/evaluate/metrics.json"]["data"]
    for model in MODELS:
        assert list(metrics[model]["recall"]) == CLASSES
        assert set(metrics[model]["precision"]) <= set(CLASSES)  # none where nothing is taken for the class


def test_the_report_has_all_five(workspace: Path) -> None:
    """The report names the classes as a choice, scores each, and shows the broken file's name as it is."""
    html = (workspace / "evaluate/report.html").read_text()
    assert "<h1>circle, cross, square, star or triangle?</h1>" in html
    assert all(
        html.count(f'<th scope="row">{name}</th>') == 5 for name in CLASSES
    )  # two networks' confusion and scores, splits
    assert "Mean over classes, each against all others." in html
    assert "broken &amp; &lt;b&gt;.jpg" in html
