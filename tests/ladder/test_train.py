import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from ladder import pictures
from tests.ladder.conftest import Ladder, run
from transfer.images import decoding
from transfer.network import saving
from transfer.runtime.files import sha256


class PowerCut(Exception):
    """Ends a training as `kill -9` does: nothing after it runs."""


def left(folder: Path) -> dict[str, Any]:
    """What a training left, but for the seconds that epochs took."""
    with (folder / "history.csv").open(newline="") as file:
        epochs = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "history.csv": epochs}


def test_dvc_runs_a_rung_alone_and_once(ladder: Ladder) -> None:
    """`dvc repro train@residual` trains that rung and no other, and then nothing of it is due."""
    assert sorted(re.findall(r"Running stage '([\w@]+)'", ladder.said)) == ["measure_extraction", "train@residual"]
    assert ladder.due == {}


def test_a_network_comes_with_its_papers(ladder: Ladder) -> None:
    """A rung leaves the network, what it is, its history and its scores, and no scratch."""
    folder = ladder.folder / "artifacts/train/residual"
    card = json.loads((folder / "model.json").read_text())
    assert set(left(folder)) == {"model.keras", "model.json", "history.csv", "metrics.json"}
    assert (card["classes"], card["image_size"], card["resizing"]) == (["circle", "triangle"], 16, "crop")
    assert card["trained_on"]["photographs"] == sha256(ladder.folder / "../artifacts/split/manifest.csv")
    assert card["scores"] == json.loads((folder / "metrics.json").read_text())
    assert not list((ladder.folder / ".cache/training").glob("*/*"))


def test_a_network_takes_a_photograph_as_it_is(ladder: Ladder) -> None:
    """The network does its own preprocessing: it takes RGB from 0 to 255 and gives a probability."""
    network = saving.load(ladder.folder / "artifacts/train/cnn_regularized/model.keras")
    photograph = next((ladder.folder / "../artifacts/subsample/photos").rglob("*.jpg"))
    pixels = decoding.resize(decoding.decode(photograph.read_bytes()), size=16, resizing="crop")
    assert 0 < float(np.asarray(network(pixels[None]))[0, 0]) < 1


def test_a_killed_training_goes_on_to_the_same_bytes(
    ladder: Ladder, climbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in its second epoch, an augmented rung trains that one alone and ends as if nothing had happened."""
    folder = climbed / "artifacts/train/cnn_regularized"
    shutil.rmtree(folder)
    show = pictures.Pictures._shown

    def failing(self: Any, number: int, epoch: int) -> decoding.Pixels:
        if epoch == 1:
            raise PowerCut
        return show(self, number, epoch)

    monkeypatch.setattr(pictures.Pictures, "_shown", failing)
    with pytest.raises(Exception, match="PowerCut"):
        run("train", "cnn_regularized")
    monkeypatch.setattr(pictures.Pictures, "_shown", show)
    assert not folder.exists()
    assert list((climbed / ".cache/training/cnn_regularized").glob("*/epoch-0001"))
    run("train", "cnn_regularized")
    assert left(folder) == left(ladder.folder / "artifacts/train/cnn_regularized")


@pytest.mark.usefixtures("climbed")
def test_a_wrong_param_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A param that is not allowed ends the stage with 78, the rung's section and the name."""
    settings = YAML(typ="safe").load(Path("params.yaml"))
    settings["mlp"]["network"]["hidden"] = [0]
    Path("params.yaml").unlink()
    YAML().dump(settings, Path("params.yaml"))
    with pytest.raises(SystemExit) as end:
        run("train", "mlp")
    assert end.value.code == 78
    assert "`mlp.network.hidden.0` must be greater than or equal to 1" in capsys.readouterr().err


def test_a_rung_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the rungs that there are."""
    with pytest.raises(SystemExit):
        run("train", "transformer")
    assert "'cnn_augmented'" in capsys.readouterr().err
