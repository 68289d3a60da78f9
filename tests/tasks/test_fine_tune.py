import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import fine_tune
from tests.tasks.conftest import PARAMS, Chain, file_contents, kill_in_the_third_epoch, run, write_params
from transfer.features import dataset, store
from transfer.images import decoding, manifest
from transfer.network import heads, saving, vgg16, weights
from transfer.network.backend import keras
from transfer.runtime import files
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training import fit

CHECKPOINTS = "checkpoints/checkpoints.csv"
OUTPUT = Path("artifacts/fine_tune")
WEIGHTS = Path("artifacts/fetch_weights/vgg16.weights.h5")
FEATURES = Path("artifacts/extract_features")


def history(folder: Path) -> list[dict[str, str]]:
    """The lines of history.csv."""
    with (folder / OUTPUT / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(folder: Path) -> dict[str, object]:
    """What the stage left, but for the seconds that epochs took."""
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history(folder)]
    return {**file_contents(folder / OUTPUT), "history.csv": epochs}


def metrics(folder: Path) -> dict[str, float]:
    """The content of metrics.json."""
    scores: dict[str, float] = json.loads((folder / OUTPUT / "metrics.json").read_text())
    return scores


def shown(folder: Path, entries: list[manifest.Entry]) -> decoding.Pixels:
    """Photographs as the whole network takes them."""
    images = [decoding.decode((folder / "artifacts/subsample" / entry.path).read_bytes()) for entry in entries]
    return np.stack([decoding.resize(image, size=32, resizing="crop") for image in images])


def cached(folder: Path, entries: list[manifest.Entry], part: dataset.Part) -> dataset.FeatureDataset:
    """The same photographs' cached activations, view 0, in the given order."""
    return dataset.FeatureDataset(folder / FEATURES, entries, classes=["circle", "triangle"], part=part, batch_size=8)


def of(folder: Path, split: str) -> list[manifest.Entry]:
    """The photographs of a split."""
    return [entry for entry in manifest.read(folder / "artifacts/split/manifest.csv") if entry.split == split]


def a_head(**changes: float) -> keras.Model:
    """A head that is not trained yet."""
    settings = heads.Params.model_validate({**PARAMS["train_head"]["head"], **changes})
    return heads.build(settings, feature_map=(1, 1, 512), classes=2, seed=0)


def losses(network: keras.Model, *data: Any) -> list[float]:
    """Train a network on the same batches of eight in each of two epochs; the losses of both."""
    settings = fit.Params.model_validate({**PARAMS["fine_tune"]["training"], "learning_rate": 3e-6})
    batch_size = 8 if len(data) == 2 else None
    fit.compile_model(network, settings, batches=1)
    fitted = network.fit(*data, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    found: list[float] = fitted.history["loss"]
    return found


def changed_layers(network: keras.Model, base: weights.Weights) -> set[str]:
    """The convolutions whose weights in the whole network are no longer the base's."""
    in_bgr = {name: network.get_layer(name).get_weights() for name in base}
    in_bgr["block1_conv1"][0] = in_bgr["block1_conv1"][0][:, :, ::-1]
    return {
        name
        for name, parts in in_bgr.items()
        if any(not np.array_equal(part, original) for part, original in zip(parts, base[name], strict=True))
    }


def test_a_network_comes_with_its_papers(chain: Chain) -> None:
    """The stage leaves model.keras, model.json, history.csv, metrics.json and the table of checkpoints, no scratch."""
    assert set(file_contents(chain.folder / OUTPUT)) == {
        "model.keras",
        "model.json",
        "history.csv",
        "metrics.json",
        CHECKPOINTS,
    }
    assert list(history(chain.folder)[0]) == list(fit.COLUMNS)
    assert not list((chain.folder / ".cache/training").glob("*/*"))


def test_the_card_says_what_the_network_is_and_follows_from(chain: Chain) -> None:
    """model.json has classes, image size, resizing, what it was trained on by sha256, params and scores."""
    card = json.loads((chain.folder / OUTPUT / "model.json").read_text())
    recipes = store.read_recipes(chain.folder / FEATURES)
    assert (card["classes"], card["image_size"], card["resizing"]) == (["circle", "triangle"], 32, "crop")
    assert card["trained_on"] == {
        "photographs": files.sha256(chain.folder / "artifacts/split/manifest.csv"),
        "features": [store.recipe_digest(recipe) for recipe in recipes],
        "head": files.sha256(chain.folder / "artifacts/train_head/head.keras"),
    }
    assert recipes[0]["weights"] == files.sha256(chain.folder / WEIGHTS)
    assert card["params"] == PARAMS["fine_tune"]
    assert card["scores"].items() <= metrics(chain.folder).items()


def test_the_best_epoch_beats_the_head(chain: Chain) -> None:
    """metrics.json has the head's validation loss and a lower one, that of the best epoch in history.csv."""
    scores = metrics(chain.folder)
    best = min(history(chain.folder), key=lambda epoch: float(epoch["val_loss"]))
    head = json.loads((chain.folder / "artifacts/train_head/metrics.json").read_text())
    assert scores["best_epoch"] == int(best["epoch"])
    assert scores["val_loss"] == float(best["val_loss"]) < scores["head_val_loss"]
    assert scores["head_val_loss"] == pytest.approx(head["val_loss"], rel=1e-3)


def test_the_network_takes_photographs(chain: Chain) -> None:
    """model.keras takes uint8 RGB of image_size, needs nothing else, and gives the probabilities that were scored."""
    validation = of(chain.folder, "validation")
    network = keras.saving.load_model(chain.folder / OUTPUT / "model.keras")
    assert (network.input_shape, network.inputs[0].dtype) == ((None, 32, 32, 3), "uint8")
    probabilities = np.asarray(network(shown(chain.folder, validation)), np.float64).ravel()
    labels = np.array([entry.class_name == "triangle" for entry in validation])
    of_right_class = np.where(labels, probabilities, 1 - probabilities)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    scores = metrics(chain.folder)
    assert (of_right_class > 0.5).mean() == pytest.approx(scores["val_accuracy"])
    # what parts them is the head's L2, which is in the loss, and rounding
    assert -np.log(of_right_class).mean() == pytest.approx(scores["val_loss"], abs=0.02)


def test_what_lies_below_the_boundary_is_the_base_as_it_was(chain: Chain) -> None:
    """Fine-tuning changes every layer above `frozen_through` and none below."""
    network = saving.load(chain.folder / OUTPUT / "model.keras")
    changed = changed_layers(network, weights.read(chain.folder / WEIGHTS))
    assert changed == {"block5_conv1", "block5_conv2", "block5_conv3"}


def test_a_network_is_the_same_bytes_each_time(chain: Chain, workspace: Path) -> None:
    """Fine-tuned anew from the same inputs and params, model.keras and model.json repeat byte by byte."""
    shutil.rmtree(OUTPUT)
    run("fine_tune", workspace)
    assert timeless(workspace) == timeless(chain.folder)


@pytest.mark.reliability("killed", "training goes on after it was killed", "no epoch that was whole is trained again")
def test_a_killed_training_goes_on_to_the_same_bytes(chain: Chain, workspace: Path) -> None:
    """Killed in its third epoch, the stage trains that one only and ends with the network of an undisturbed run."""
    shutil.rmtree(OUTPUT)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    train, _ = dataset.train_and_validation(FEATURES, photographs, part="boundary", batch_size=8, seed=0)
    state = kill_in_the_third_epoch("fine_tune", workspace, train)
    done = json.loads((state / "history.json").read_text())
    assert not OUTPUT.exists()
    assert len(done) == 2
    run("fine_tune", workspace)
    assert timeless(workspace) == timeless(chain.folder)
    assert [float(epoch["seconds"]) for epoch in history(workspace)[:2]] == [epoch["seconds"] for epoch in done]
    assert not list(Path(".cache/training").glob("*/*"))


def test_the_head_is_handed_on_when_no_epoch_beats_it(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a rate that ruins the network the stage says that the head's model is kept, and keeps it."""
    caplog.set_level(logging.WARNING)
    head = a_head(l2=0.0)
    kernel, bias = head.get_layer("probabilities").get_weights()
    head.get_layer("probabilities").set_weights([kernel * 0, bias])  # guesses, which a ruined network is no better at
    card = json.loads(Path("artifacts/train_head/model.json").read_text())
    saving.write(Path("artifacts/train_head/head.keras"), head, {**card, "sha256": ""})
    ruinous = {**PARAMS["fine_tune"]["training"], "learning_rate": 0.1}
    write_params(workspace, {"fine_tune": {"training": ruinous}})
    fine_tune.main()
    assert "No epoch of fine-tuning has a validation loss below the head's 0.6931" in caplog.text
    assert metrics(workspace) == {"head_val_loss": pytest.approx(np.log(2)), "epochs": 3}
    network, base = saving.load(OUTPUT / "model.keras"), weights.read(WEIGHTS)
    assert changed_layers(network, base) == set()
    for kept, expected in zip(network.get_layer("head").get_weights(), head.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.reliability("tampered", "features of other weights than those that are there", "fine-tuning ends with 65")
@pytest.mark.usefixtures("workspace")
def test_other_weights_than_the_features_are_refused() -> None:
    """A base that the features were not computed with is not put below them."""
    WEIGHTS.unlink()
    weights.write(WEIGHTS, weights.random(seed=1))
    with pytest.raises(DataError, match=r"vgg16\.weights\.h5 must be the weights that the features were") as refusal:
        fine_tune.main()
    assert str(refusal.value).endswith(rerun_hint("fetch_weights", "extract_features"))


@pytest.mark.reliability(
    "tampered", "a model or a model.json put in another's place", "65 with both sha256s and the cure"
)
def test_another_head_than_its_card_knows_is_refused(workspace: Path) -> None:
    """A head that was exchanged is not fine-tuned, and the network from before stays."""
    expected = file_contents(workspace / OUTPUT)
    saving.save(a_head(), Path("artifacts/train_head/head.keras"))
    with pytest.raises(DataError, match=r"head\.keras must be the network that its model\.json") as refusal:
        fine_tune.main()
    assert str(refusal.value).endswith(rerun_hint("train_head"))
    assert file_contents(workspace / OUTPUT) == expected


def test_fine_tuning_from_the_cache_equals_fine_tuning_the_whole_network(chain: Chain) -> None:
    """Trained on cached activations the losses are those of training the whole network, but for float16's rounding."""
    train, base = of(chain.folder, "train"), weights.read(chain.folder / WEIGHTS)
    labels = np.array([[entry.class_name == "triangle"] for entry in train], np.float32)
    pixels = shown(chain.folder, train)

    def top() -> list[keras.Layer]:
        return [*vgg16.top_layers(base, above="block4_pool"), a_head(dropout=0.0)]

    frozen = keras.Sequential([keras.Input(pixels.shape[1:]), *vgg16.frozen_layers(base, through="block4_pool")])
    unrounded = frozen.predict(pixels, batch_size=8, verbose=0)
    expected = losses(keras.Sequential([frozen, *top()]), pixels, labels)
    assert expected[1] < 0.9 * expected[0]  # it learns, so agreeing means something
    above = [keras.Input(unrounded.shape[1:]), *top()]
    assert losses(keras.Sequential(above), unrounded, labels) == pytest.approx(expected, rel=1e-5)
    above = [keras.Input(unrounded.shape[1:]), *top()]
    rounded = losses(keras.Sequential(above), cached(chain.folder, train, "boundary"))
    # measured: 0.00001 in the first epoch, 0.0002 in the second; each step multiplies what rounding began with
    assert rounded == pytest.approx(expected, rel=2e-3)
