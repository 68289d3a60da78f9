import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks import train_head
from tests import disks
from tests.tasks.conftest import PARAMS, Chain, file_contents, kill_in_the_third_epoch, run, write_params
from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import saving
from transfer.runtime import files, stage
from transfer.runtime.errors import DiskError
from transfer.training import fit

CHECKPOINTS = "checkpoints/checkpoints.csv"
OUTPUT = Path("artifacts/train_head")
FEATURES = Path("artifacts/extract_features")


def history(folder: Path) -> list[dict[str, str]]:
    """The lines of history.csv."""
    with (folder / OUTPUT / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(folder: Path) -> dict[str, object]:
    """What the stage left, but for the seconds that epochs took."""
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history(folder)]
    return {**file_contents(folder / OUTPUT), "history.csv": epochs}


def test_a_head_comes_with_its_papers(chain: Chain) -> None:
    """The stage leaves head.keras, model.json, history.csv, metrics.json and the table of checkpoints, no scratch."""
    assert set(file_contents(chain.folder / OUTPUT)) == {
        "head.keras",
        "model.json",
        "history.csv",
        "metrics.json",
        CHECKPOINTS,
    }
    assert not list((chain.folder / ".cache/training").glob("*/*"))


def test_the_card_says_what_the_head_is_and_follows_from(chain: Chain) -> None:
    """model.json has classes, image size, resizing, what it was trained on by sha256, params and scores."""
    card = json.loads((chain.folder / OUTPUT / "model.json").read_text())
    recipes = store.read_recipes(chain.folder / FEATURES)
    assert (card["classes"], card["image_size"], card["resizing"]) == (["circle", "triangle"], 32, "crop")
    assert card["trained_on"] == {
        "photographs": files.sha256(chain.folder / "artifacts/split/manifest.csv"),
        "features": [store.recipe_digest(recipe) for recipe in recipes],
    }
    assert card["params"] == PARAMS["train_head"]
    assert card["scores"] == json.loads((chain.folder / OUTPUT / "metrics.json").read_text())


def test_the_scores_are_those_of_the_best_epoch(chain: Chain) -> None:
    """history.csv has a line an epoch; metrics.json repeats the one with the lowest validation loss."""
    epochs = history(chain.folder)
    assert list(epochs[0]) == list(fit.COLUMNS)
    assert [epoch["epoch"] for epoch in epochs] == ["1", "2", "3"]
    best = min(epochs, key=lambda epoch: float(epoch["val_loss"]))
    scores = json.loads((chain.folder / OUTPUT / "metrics.json").read_text())
    assert (scores["epochs"], scores["best_epoch"]) == (3, int(best["epoch"]))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert scores[name] == float(best[name])


def test_the_head_is_the_one_that_was_scored(chain: Chain) -> None:
    """head.keras takes the feature map and gives the validation photographs the accuracy that metrics.json tells."""
    entries = manifest.read(chain.folder / "artifacts/split/manifest.csv")
    _, validation = dataset.train_and_validation(chain.folder / FEATURES, entries, part="pooled", batch_size=8, seed=0)
    head = saving.load(chain.folder / OUTPUT / "head.keras")
    maps, labels = validation[0]
    assert head.input_shape == (None, *maps.shape[1:])
    right = (np.asarray(head(maps)) > 0.5) == labels
    scores = json.loads((chain.folder / OUTPUT / "metrics.json").read_text())
    assert right.mean() == pytest.approx(scores["val_accuracy"])


def test_a_head_is_the_same_bytes_each_time(chain: Chain, workspace: Path) -> None:
    """Trained anew from the same features and params, head.keras and model.json repeat byte by byte."""
    shutil.rmtree(OUTPUT)
    run("train_head", workspace)
    assert timeless(workspace) == timeless(chain.folder)


@pytest.mark.reliability("killed", "training goes on after it was killed", "no epoch that was whole is trained again")
def test_a_killed_training_goes_on_to_the_same_bytes(chain: Chain, workspace: Path) -> None:
    """Killed in its third epoch, the stage trains that one only and ends with the head of an undisturbed run."""
    shutil.rmtree(OUTPUT)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    train, _ = dataset.train_and_validation(FEATURES, photographs, part="pooled", batch_size=8, seed=0)
    state = kill_in_the_third_epoch("train_head", workspace, train)
    done = json.loads((state / "history.json").read_text())
    assert not OUTPUT.exists()
    assert len(done) == 2
    run("train_head", workspace)
    assert timeless(workspace) == timeless(chain.folder)
    assert [float(epoch["seconds"]) for epoch in history(workspace)[:2]] == [epoch["seconds"] for epoch in done]
    assert not list(Path(".cache/training").glob("*/*"))


@pytest.mark.reliability(
    "training", "the loss becomes NaN", "65 and the parameter to lower; nothing half made is written"
)
@pytest.mark.usefixtures("workspace")
def test_a_loss_that_is_no_number_leaves_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The stage ends with 65 and what to change, and every file that was there stays as it was."""
    expected = file_contents(OUTPUT)
    section = PARAMS["train_head"]
    ruinous = {**section["training"], "optimizer": "sgd", "learning_rate": 1.0}
    write_params(Path(), {"train_head": {"head": {**section["head"], "l2": 1e30}, "training": ruinous}})
    with pytest.raises(SystemExit) as end:
        stage.run(train_head.main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 65
    assert last.startswith("The loss of train_head must stay a finite number. Received: NaN or infinity in epoch 1.")
    assert last.endswith("`dvc repro` brings an earlier model back without training.")
    assert file_contents(OUTPUT) == expected


@pytest.mark.parametrize(
    ("changes", "name", "allowed"),
    [
        ({"head": {**PARAMS["train_head"]["head"], "dropout": 1.5}}, "train_head.head.dropout", "less than 1"),
        ({"training": {**PARAMS["train_head"]["training"], "epoch": 3}}, "train_head.training.epoch", "`epochs`"),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_wrong_params_are_named(
    capsys: pytest.CaptureFixture[str], changes: dict[str, object], name: str, allowed: str
) -> None:
    """A parameter that is out of range or unknown ends the stage with 78, its name and what is allowed."""
    write_params(Path(), {"train_head": changes})
    with pytest.raises(SystemExit) as end:
        stage.run(train_head.main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 78
    assert f"`{name}`" in last
    assert allowed in last


@pytest.mark.reliability("disk", "no room for a training", "exit 74 before its first epoch, with what it takes")
def test_a_training_that_does_not_fit_is_not_begun(workspace: Path, tmp_path: Path) -> None:
    """Where epochs are kept has too little room: nothing is trained, and what was made before stays."""
    expected = file_contents(workspace / OUTPUT)
    with disks.small(tmp_path / "disk", "size=64k") as disk:
        shutil.rmtree(workspace / ".cache")
        (workspace / ".cache").symlink_to(disk.path)
        with pytest.raises(DiskError, match=r"`\.cache/training/.*` must have \d+ kB free\. Received: 65\.5 kB free"):
            train_head.main()
        assert list(disk.path.iterdir()) == []
    assert file_contents(workspace / OUTPUT) == expected
