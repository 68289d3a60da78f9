"""The stage train_head, and what it has in common with fine_tune."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tasks import fine_tune, train_head
from tests import disks
from tests.tasks.conftest import PARAMS, Chain, file_contents, kill_in_the_third_epoch, write_params
from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import saving
from transfer.network.backend import keras
from transfer.runtime import files, stage
from transfer.runtime.errors import DiskError
from transfer.training.history import COLUMNS

OUTPUT = Path("artifacts/train_head")
FEATURES = Path("artifacts/extract_features")
HEAD = Path("artifacts/train_head/head.keras")
pytestmark = pytest.mark.long


class Stage(NamedTuple):
    """A training stage: its name, the network's file and inputs of its own."""

    name: str
    network: str
    inputs: dict[str, Path]

    @property
    def output(self) -> Path:
        """Where it writes."""
        return Path("artifacts") / self.name


both_stages = pytest.mark.parametrize(
    "trained",
    [
        Stage("train_head", "head.keras", {}),
        Stage("fine_tune", "model.keras", {"head": HEAD}),
    ],
    ids=lambda trained: trained.name,
)


def history(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a stage's history.csv."""
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(folder: Path) -> dict[str, object]:
    """Return the content of a stage's files without the durations of epochs."""
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history(folder)]
    return {**file_contents(folder), "history.csv": epochs}


def run_here(main: Callable[[], None]) -> None:
    """Run a stage in this process, which has imported TensorFlow; its files are those of a process of its own."""
    keras.utils.clear_session()  # names of layers contain a counter
    main()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@both_stages
def test_a_training_stage_writes_its_files(chain: Chain, trained: Stage) -> None:
    """The stage writes a network, model.json, history.csv, metrics.json and checkpoints.csv, and leaves no state.

    Fine-tuning also writes the rows of the training photographs, for answers.
    """
    written = set(file_contents(chain.folder / trained.output)) - {"rows.npz"}
    assert written == {trained.network, "model.json", "history.csv", "metrics.json", "checkpoints/checkpoints.csv"}
    assert (chain.folder / trained.output / "rows.npz").exists() == (trained.name == "fine_tune")
    assert list(history(chain.folder / trained.output)[0]) == list(COLUMNS)
    assert not list((chain.folder / ".cache/training").glob("*/*"))


@both_stages
def test_the_card_describes_the_network_and_its_lineage(chain: Chain, trained: Stage) -> None:
    """model.json has classes, image size, resizing, the SHA-256 of all inputs, parameters and scores."""
    card = read_json(chain.folder / trained.output / "model.json")
    recipes = store.read_recipes(chain.folder / FEATURES)
    assert (card["classes"], card["image_size"], card["resizing"]) == (["cat", "dog"], 32, "crop")
    assert card["trained_on"] == {
        "photographs": files.sha256(chain.folder / "artifacts/split/manifest.csv"),
        "features": [store.recipe_digest(recipe) for recipe in recipes],
        **{name: files.sha256(chain.folder / path) for name, path in trained.inputs.items()},
    }
    assert recipes[0]["weights"] == files.sha256(chain.folder / "artifacts/fetch_weights/vgg16.weights.h5")
    assert card["params"] == PARAMS[trained.name]
    metrics = read_json(chain.folder / trained.output / "metrics.json")
    others = ("head_val_loss", "temperature")
    assert card["scores"] == {name: value for name, value in metrics.items() if name not in others}


@pytest.mark.reliability("killed", "a killed training run", "the next run goes on after the last complete epoch")
def test_a_killed_fine_tuning_ends_with_the_same_bytes(chain: Chain, workspace: Path) -> None:
    """Killed in its third epoch, the stage trains that epoch alone and writes the files of an undisturbed run.

    From the same inputs and parameters, every file is the same but for the durations of epochs.
    """
    output = Path("artifacts/fine_tune")
    shutil.rmtree(output)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    training, _ = dataset.train_and_validation(FEATURES, photographs, part="boundary", batch_size=8, seed=0)
    state = kill_in_the_third_epoch("fine_tune", workspace, training)
    kept = json.loads((state / "history.json").read_text())
    assert not output.exists()
    assert len(kept) == 2
    run_here(fine_tune.main)
    assert without_seconds(workspace / output) == without_seconds(chain.folder / output)
    epochs = history(workspace / output)
    assert [float(epoch["seconds"]) for epoch in epochs[:2]] == [epoch["seconds"] for epoch in kept]
    assert not list(Path(".cache/training").glob("*/*"))


@pytest.mark.reliability("killed", "a killed training run", "the next run goes on after the last complete epoch")
def test_a_killed_run_of_several_heads_ends_with_the_same_bytes(workspace: Path) -> None:
    """With three heads, a run that was killed writes the files of an undisturbed run, and fine-tuning takes them."""
    write_params(workspace, {"train_head": {"heads": 3}})
    run_here(train_head.main)
    undisturbed = without_seconds(OUTPUT)
    shutil.rmtree(OUTPUT)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    training, _ = dataset.train_and_validation(FEATURES, photographs, part="pooled", batch_size=8, seed=0)
    kill_in_the_third_epoch("train_head", workspace, training)
    run_here(train_head.main)
    assert without_seconds(OUTPUT) == undisturbed
    fine_tune.main()
    tuned = saving.load(Path("artifacts/fine_tune/model.keras"))
    assert {layer.name for layer in tuned.layers[-1].layers} >= {"head_1_dense_1", "head_2_dense_1", "head_3_dense_1"}
    assert read_json(Path("artifacts/fine_tune/metrics.json"))["head_val_loss"] == pytest.approx(
        read_json(OUTPUT / "metrics.json")["val_loss"], rel=1e-3
    )


def test_the_scores_are_those_of_the_best_epoch(chain: Chain) -> None:
    """history.csv has a row for each epoch; metrics.json has the scores of the one with the lowest validation loss."""
    epochs = history(chain.folder / OUTPUT)
    assert [epoch["epoch"] for epoch in epochs] == ["1", "2", "3"]
    best = min(epochs, key=lambda epoch: float(epoch["val_loss"]))
    scores = read_json(chain.folder / OUTPUT / "metrics.json")
    assert (scores["epochs"], scores["best_epoch"]) == (3, int(best["epoch"]))
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert scores[name] == float(best[name])


def test_the_saved_head_has_the_reported_accuracy(chain: Chain) -> None:
    """head.keras takes feature maps and classifies the validation photographs with the accuracy of metrics.json."""
    entries = manifest.read(chain.folder / "artifacts/split/manifest.csv")
    _, validation = dataset.train_and_validation(chain.folder / FEATURES, entries, part="pooled", batch_size=8, seed=0)
    head = saving.load(chain.folder / HEAD)
    maps, labels = validation[0]
    assert head.input_shape == (None, *maps.shape[1:])
    correct = (np.asarray(head(maps)) > 0.5) == labels
    scores = read_json(chain.folder / OUTPUT / "metrics.json")
    assert correct.mean() == pytest.approx(scores["val_accuracy"])


@pytest.mark.reliability(
    "training", "the loss becomes NaN", "65 and the parameter to lower; no incomplete file is written"
)
@pytest.mark.usefixtures("workspace")
def test_a_loss_of_nan_changes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The stage ends with 65 and the parameter to change, and every earlier file stays as it was."""
    expected = file_contents(OUTPUT)
    section = PARAMS["train_head"]
    diverging = {**section["training"], "optimizer": "sgd", "learning_rate": 1.0}
    write_params(Path(), {"train_head": {"head": {**section["head"], "l2": 1e30}, "training": diverging}})
    with pytest.raises(SystemExit) as end:
        stage.run(train_head.main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 65
    assert last.startswith("The loss of train_head must be a finite number. Received: NaN or infinity in epoch 1.")
    assert last.endswith("`dvc repro` brings an earlier model back without training.")
    assert file_contents(OUTPUT) == expected


@pytest.mark.parametrize(
    ("changes", "name", "allowed"),
    [
        ({"head": {**PARAMS["train_head"]["head"], "dropout": 1.5}}, "train_head.head.dropout", "less than 1"),
        ({"heads": 0}, "train_head.heads", "greater than or equal to 1"),
        ({"training": {**PARAMS["train_head"]["training"], "epoch": 3}}, "train_head.training.epoch", "`epochs`"),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_a_wrong_parameter_is_named(
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


@pytest.mark.reliability("disk", "no space for a training run", "exit 74 before its first epoch, with the space needed")
def test_a_run_without_enough_space_does_not_start(workspace: Path, tmp_path: Path) -> None:
    """If the disk for the state of epochs is too small, nothing is trained and every earlier file stays."""
    expected = file_contents(workspace / OUTPUT)
    with disks.small(tmp_path / "disk", "size=64k") as disk:
        shutil.rmtree(workspace / ".cache")
        (workspace / ".cache").symlink_to(disk.path)
        with pytest.raises(DiskError, match=r"`\.cache/training/.*` must have \d+ kB free\. Received: 65\.5 kB free"):
            train_head.main()
        assert list(disk.path.iterdir()) == []
    assert file_contents(workspace / OUTPUT) == expected
