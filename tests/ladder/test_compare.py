import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dvc.repo import Repo

from ladder import compare, rungs
from tests.ladder.conftest import Ladder, run
from transfer.features import store
from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.training.history import read_history

RUNGS = [*rungs.FROM_NOTHING, *compare.ON_VGG16]


def metrics(folder: Path) -> dict[str, Any]:
    """The results of every rung."""
    found: dict[str, Any] = json.loads((folder / "artifacts/compare/metrics.json").read_text())
    return found


def seconds(file: Path) -> float:
    """How long a training took."""
    return sum(epoch["seconds"] for epoch in read_history(file))


def test_every_rung_is_in_the_table(ladder: Ladder) -> None:
    """The table is Markdown with a line a rung, from the first idea to the last, its numbers those of metrics.json."""
    lines = (ladder.folder / "artifacts/compare/table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == ["rung", cells[1][0], *(compare.TITLES[rung] for rung in RUNGS)]
    assert list(metrics(ladder.folder)) == RUNGS
    for row, found in zip(cells[2:], metrics(ladder.folder).values(), strict=True):
        assert row[1] == f"{found['weights']:,}"
        assert row[5] == f"{100 * found['accuracy']:.1f} %"
    assert len({len(line) for line in lines}) == 1


def test_a_rung_is_scored_on_the_test_split(ladder: Ladder) -> None:
    """A rung's accuracy is that of its network on the test photographs."""
    network = saving.load(ladder.folder / "artifacts/train/cnn_regularized/model.keras")
    entries = manifest.read(ladder.folder / "../artifacts/split/manifest.csv")
    test = [entry for entry in entries if entry.split == "test"]
    images = [decoding.decode((ladder.folder / "../artifacts/subsample" / each.path).read_bytes()) for each in test]
    given = np.asarray(network(np.stack([decoding.resize(image, size=16, resizing="crop") for image in images])))[:, 0]
    right = [
        (probability > 0.5) == (entry.class_name == "triangle") for probability, entry in zip(given, test, strict=True)
    ]
    found = metrics(ladder.folder)["cnn_regularized"]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]


def test_a_rung_takes_as_long_as_its_epochs(ladder: Ladder) -> None:
    """A rung that is trained from nothing needs no features, and its epochs are all that it takes."""
    found = metrics(ladder.folder)["residual"]
    history = ladder.folder / "artifacts/train/residual/history.csv"
    assert (found["features"], found["epochs"]) == (0, 2)
    assert found["training"] == pytest.approx(seconds(history))


def test_vgg16_pays_for_its_features(ladder: Ladder) -> None:
    """Every row of training and validation counts, views included, and fine-tuning the head's training too."""
    artifacts = ladder.folder / "../artifacts"
    found, scored = metrics(ladder.folder), json.loads((artifacts / "evaluate/metrics.json").read_text())
    entries = manifest.read(artifacts / "split/manifest.csv")
    views = len(store.read_recipes(artifacts / "extract_features"))
    counts = {split: sum(entry.split == split for entry in entries) for split in ("train", "validation")}
    rate = json.loads((ladder.folder / "artifacts/measure_extraction/metrics.json").read_text())["seconds_per_row"]
    price = (counts["train"] * views + counts["validation"]) * rate
    head, tuned = (seconds(artifacts / stage / "history.csv") for stage in compare.ON_VGG16)
    assert views == 2
    for rung, training in (("train_head", head), ("fine_tune", head + tuned)):
        assert found[rung]["features"] == pytest.approx(price)
        assert found[rung]["training"] == pytest.approx(training)
        for score in ("accuracy", "accuracy_low", "accuracy_high", "log_loss"):
            assert found[rung][score] == pytest.approx(scored[rung][score])


def test_the_picture_stands_alone(ladder: Ladder) -> None:
    """The picture names every rung and both axes, and has colours for a light and for a dark screen."""
    drawing = (ladder.folder / "artifacts/compare/picture.svg").read_text()
    words = {element.text for element in ET.fromstring(drawing).iter() if element.tag.endswith("}text")}  # noqa: S314
    assert set(compare.TITLES.values()) <= words
    assert any("accuracy on" in (word or "") for word in words)
    assert "prefers-color-scheme: dark" in drawing


def test_every_rung_has_a_title_and_a_family() -> None:
    """No rung is left out of the picture."""
    assert list(compare.TITLES) == RUNGS
    assert sorted(rung for family in compare.FAMILIES for rung in family) == sorted(RUNGS)


@pytest.mark.usefixtures("climbed")
def test_a_network_of_another_split_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A network that may have seen test photographs is not compared: it is named, with the cure."""
    file = Path("artifacts/train/mlp/model.json")
    card = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps({**card, "trained_on": {"photographs": "0" * 64}}))
    with pytest.raises(SystemExit) as end:
        run("compare")
    assert end.value.code == 65
    assert re.search(r"Received: mlp trained on another\. .*`dvc --cd ladder repro`", capsys.readouterr().err)


def test_dvc_shows_nothing_of_the_ladder_in_the_main_pipeline(climbed: Path) -> None:
    """In the folder above, DVC has the main pipeline's stages alone, and has nothing to say of the ladder's."""
    main = climbed.parent
    with Repo(main) as repo:
        assert {Path(stage.path).parent for stage in repo.index.stages} == {main.resolve()}
        assert repo.status() == {}
