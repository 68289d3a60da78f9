import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from baselines.dataset import ImageDataset
from tests.baselines.conftest import Baselines, run
from transfer.images import decoding
from transfer.network import saving
from transfer.runtime.files import sha256


class PowerCut(Exception):
    """Ends a training run like `kill -9`: no code after it runs."""


def results(folder: Path) -> dict[str, Any]:
    """Return all results of a training run, but for the seconds of its epochs."""
    with (folder / "history.csv").open(newline="") as file:
        epochs = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "history.csv": epochs}


def test_a_model_comes_with_its_card_history_and_scores(baselines: Baselines) -> None:
    """A training run writes the network, its card, history and scores, and leaves no state to resume from."""
    folder = baselines.folder / "artifacts/baselines/train/residual"
    card = json.loads((folder / "model.json").read_text())
    assert set(results(folder)) == {"model.keras", "model.json", "history.csv", "metrics.json"}
    assert (card["classes"], card["image_size"], card["resizing"]) == (["cat", "dog"], 16, "crop")
    assert card["trained_on"]["photographs"] == sha256(baselines.folder / "artifacts/split/manifest.csv")
    assert card["scores"] == json.loads((folder / "metrics.json").read_text())
    assert not list((baselines.folder / ".cache/training").glob("*/*"))


def test_a_network_takes_pixels_from_0_to_255(baselines: Baselines) -> None:
    """The network does its own preprocessing: its input is RGB from 0 to 255, its output a probability."""
    network = saving.load(baselines.folder / "artifacts/baselines/train/cnn_regularized/model.keras")
    photograph = next((baselines.folder / "artifacts/subsample/photos").rglob("*.jpg"))
    pixels = decoding.resize(decoding.decode(photograph.read_bytes()), size=16, resizing="crop")
    assert 0 < float(np.asarray(network(pixels[None]))[0, 0]) < 1


def test_a_killed_training_run_resumes_to_the_same_bytes(
    baselines: Baselines, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second epoch, training with augmentation repeats that epoch alone and gives the same files."""
    folder = workspace / "artifacts/baselines/train/cnn_regularized"
    shutil.rmtree(folder)
    image = ImageDataset._image

    def fail_in_second_epoch(self: Any, number: int, epoch: int) -> decoding.Pixels:
        if epoch == 1:
            raise PowerCut
        return image(self, number, epoch)

    monkeypatch.setattr(ImageDataset, "_image", fail_in_second_epoch)
    with pytest.raises(Exception, match="PowerCut"):
        run("train", "cnn_regularized")
    monkeypatch.setattr(ImageDataset, "_image", image)
    assert not folder.exists()
    assert list((workspace / ".cache/training/cnn_regularized").glob("*/epoch-0001"))
    run("train", "cnn_regularized")
    assert results(folder) == results(baselines.folder / "artifacts/baselines/train/cnn_regularized")


@pytest.mark.usefixtures("workspace")
def test_a_wrong_parameter_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is not allowed ends the stage with 78; the message names the model's section and the parameter."""
    file = Path("baselines/params.yaml")
    settings = YAML(typ="safe").load(file)
    settings["mlp"]["network"]["hidden"] = [0]
    file.unlink()
    YAML().dump(settings, file)
    with pytest.raises(SystemExit) as end:
        run("train", "mlp")
    assert end.value.code == 78
    assert "`mlp.network.hidden.0` must be greater than or equal to 1" in capsys.readouterr().err
