import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines import compare, models
from tests.baselines.conftest import Baselines, run
from transfer.features import store
from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.training.history import read_history

MODELS = [*models.FROM_SCRATCH, *compare.PRETRAINED]


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the results of all models."""
    metrics: dict[str, Any] = json.loads((folder / "artifacts/baselines/compare/metrics.json").read_text())
    return metrics


def seconds(file: Path) -> float:
    """Return the duration of a training run from its history."""
    return sum(epoch["seconds"] for epoch in read_history(file))


def test_the_table_has_a_line_for_every_model(baselines: Baselines) -> None:
    """The table is Markdown, lists the models in the order of the comparison, and has the numbers of metrics.json."""
    lines = (baselines.folder / "artifacts/baselines/compare/table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["model", cells[1][0], *(compare.TITLES[model] for model in MODELS)]
    assert list(read_metrics(baselines.folder)) == MODELS
    for row, result in zip(cells[2:], read_metrics(baselines.folder).values(), strict=True):
        assert row[1] == f"{result['weights']:,}"
        assert row[5] == f"{100 * result['accuracy']:.1f} %"
    assert len({len(line) for line in lines}) == 1


def test_a_model_is_scored_on_the_test_split(baselines: Baselines) -> None:
    """The accuracy of a model is that of its network on the test photographs."""
    network = saving.load(baselines.folder / "artifacts/baselines/train/cnn_regularized/model.keras")
    entries = manifest.read(baselines.folder / "artifacts/split/manifest.csv")
    test = [entry for entry in entries if entry.split == "test"]
    images = [decoding.decode((baselines.folder / "artifacts/subsample" / entry.path).read_bytes()) for entry in test]
    probabilities = network(np.stack([decoding.resize(image, size=16, resizing="crop") for image in images]))
    correct = [
        (probability > 0.5) == (entry.class_name == "dog")
        for probability, entry in zip(np.asarray(probabilities)[:, 0], test, strict=True)
    ]
    result = read_metrics(baselines.folder)["cnn_regularized"]
    assert result["accuracy"] == pytest.approx(np.mean(correct))
    assert result["accuracy_low"] < result["accuracy"] < result["accuracy_high"]


def test_the_time_of_a_model_is_the_sum_of_its_epochs(baselines: Baselines) -> None:
    """A model that is trained from scratch needs no features, so its time is that of its epochs."""
    result = read_metrics(baselines.folder)["residual"]
    history = baselines.folder / "artifacts/baselines/train/residual/history.csv"
    assert (result["features"], result["epochs"]) == (0, 2)
    assert result["training"] == pytest.approx(seconds(history))


def test_the_time_of_vgg16_includes_its_features(baselines: Baselines) -> None:
    """Every row of training and validation photographs counts, in all views; fine-tuning includes the head's time."""
    artifacts = baselines.folder / "artifacts"
    metrics, evaluated = read_metrics(baselines.folder), json.loads((artifacts / "evaluate/metrics.json").read_text())
    entries = manifest.read(artifacts / "split/manifest.csv")
    views = len(store.read_recipes(artifacts / "extract_features"))
    counts = {split: sum(entry.split == split for entry in entries) for split in ("train", "validation")}
    rate = json.loads((artifacts / "baselines/measure_extraction/metrics.json").read_text())["seconds_per_row"]
    features = (counts["train"] * views + counts["validation"]) * rate
    head, tuned = (seconds(artifacts / stage / "history.csv") for stage in compare.PRETRAINED)
    assert views == 2
    for stage, training in (("train_head", head), ("fine_tune", head + tuned)):
        assert metrics[stage]["features"] == pytest.approx(features)
        assert metrics[stage]["training"] == pytest.approx(training)
        for score in ("accuracy", "accuracy_low", "accuracy_high", "log_loss"):
            assert metrics[stage][score] == pytest.approx(evaluated[stage][score])


def test_the_figure_is_complete_in_itself(baselines: Baselines) -> None:
    """The figure names all models and both axes, and has colours for a light and for a dark screen."""
    svg = (baselines.folder / "artifacts/baselines/compare/figure.svg").read_text()
    words = {element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")}  # noqa: S314
    assert set(compare.TITLES.values()) <= words
    assert any("accuracy on" in (word or "") for word in words)
    assert "prefers-color-scheme: dark" in svg


def test_every_model_has_a_title_and_a_family() -> None:
    """The figure leaves no model out."""
    assert list(compare.TITLES) == MODELS
    assert sorted(model for family in compare.FAMILIES for model in family) == sorted(MODELS)


@pytest.mark.usefixtures("workspace")
def test_a_model_of_another_split_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that may have trained on test photographs is not compared; the message names it and what to run."""
    file = Path("artifacts/baselines/train/mlp/model.json")
    card = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**card, "trained_on": {"photographs": "0" * 64}}))
    with pytest.raises(SystemExit) as end:
        run("compare")
    assert end.value.code == 65
    assert re.search(r"Received: another split for mlp\. .*`dvc repro baselines/dvc\.yaml`", capsys.readouterr().err)
