"""The stage fine_tune; tests/tasks/test_train_head.py tests what both training stages have in common."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import extract_features, fine_tune
from tests.tasks.conftest import PARAMS, Chain, environment, file_contents, write_params
from transfer.features import dataset, extraction, store
from transfer.images import decoding, manifest
from transfer.network import card, heads, neighbours, saving, vgg16, weights
from transfer.network.backend import keras
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training import calibration, fit, inference
from transfer.training.settings import Params as TrainingParams

OUTPUT = Path("artifacts/fine_tune")
HEAD = Path("artifacts/train_head/head.keras")
WEIGHTS = Path("artifacts/fetch_weights/vgg16.weights.h5")
FEATURES = Path("artifacts/extract_features")
pytestmark = pytest.mark.long

ON_TWO_DEVICES = """\
import contextlib, logging
logging.basicConfig(level="INFO")
from transfer.network.backend import keras, tf
from transfer.training import callbacks, devices, resume

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices.KIND = "CPU"
keep = resume.back_up

class PowerCut(Exception):
    pass

def keep_and_fail(scratch, model, history):
    keep(scratch, model, history)
    resume.back_up = keep
    raise PowerCut

resume.back_up = keep_and_fail
from tasks import fine_tune
with contextlib.suppress(PowerCut):
    fine_tune.main()
keras.utils.clear_session()
fine_tune.main()
"""  # runs the stage, which ends after its first epoch, and again


def metrics(folder: Path) -> dict[str, float]:
    """Read metrics.json."""
    scores: dict[str, float] = json.loads((folder / OUTPUT / "metrics.json").read_text())
    return scores


def split(folder: Path, name: str) -> list[manifest.Entry]:
    """Return the photographs of a split."""
    return [entry for entry in manifest.read(folder / "artifacts/split/manifest.csv") if entry.split == name]


def pixels_of(folder: Path, entries: list[manifest.Entry]) -> decoding.Pixels:
    """Return photographs as the fine-tuned model takes them."""
    images = [decoding.decode((folder / "artifacts/subsample" / entry.path).read_bytes()) for entry in entries]
    return np.stack([decoding.resize(image, size=32, resizing="crop") for image in images])


def cached(folder: Path, entries: list[manifest.Entry]) -> dataset.FeatureDataset:
    """Return the photographs' cached boundary activations, view 0, in the given order."""
    return dataset.FeatureDataset(folder / FEATURES, entries, classes=["cat", "dog"], part="boundary", batch_size=8)


def untrained_head(**changes: float) -> keras.Model:
    """Return a head with its initial weights, with some settings changed."""
    settings = heads.Params.model_validate({**PARAMS["train_head"]["head"], **changes})
    return heads.build(settings, feature_map=(1, 1, 512), classes=2, seed=0)


def losses(network: keras.Model, *data: Any) -> list[float]:
    """Train a network for two epochs on the same batches of eight, and return the loss of each epoch."""
    settings = TrainingParams.model_validate({**PARAMS["fine_tune"]["training"], "learning_rate": 3e-6})
    batch_size = 8 if len(data) == 2 else None
    fit.compile_model(network, settings, batches=1)
    logs = network.fit(*data, batch_size=batch_size, epochs=2, shuffle=False, verbose=0).history
    loss: list[float] = logs["loss"]
    return loss


def changed_layers(network: keras.Model, base: weights.Weights) -> set[str]:
    """Return the convolutions whose weights in a model are not the base's."""
    in_bgr = {name: network.get_layer(name).get_weights() for name in base}
    in_bgr["block1_conv1"][0] = in_bgr["block1_conv1"][0][:, :, ::-1]
    return {
        name
        for name, arrays in in_bgr.items()
        if any(not np.array_equal(array, original) for array, original in zip(arrays, base[name], strict=True))
    }


def test_the_best_epoch_beats_the_head(chain: Chain) -> None:
    """metrics.json has the head's validation loss, and the lower one of the best epoch in history.csv."""
    scores = metrics(chain.folder)
    with (chain.folder / OUTPUT / "history.csv").open(newline="") as file:
        best = min(csv.DictReader(file), key=lambda epoch: float(epoch["val_loss"]))
    head = json.loads((chain.folder / "artifacts/train_head/metrics.json").read_text())
    assert scores["best_epoch"] == int(best["epoch"])
    assert scores["val_loss"] == float(best["val_loss"]) < scores["head_val_loss"]
    assert scores["head_val_loss"] == pytest.approx(head["val_loss"], rel=1e-3)


def test_the_model_takes_photographs(chain: Chain) -> None:
    """model.keras takes uint8 RGB of image_size, alone, and gives the probabilities that metrics.json scores."""
    validation = split(chain.folder, "validation")
    model = keras.saving.load_model(chain.folder / OUTPUT / "model.keras")
    assert (model.input_shape, model.inputs[0].dtype) == ((None, 32, 32, 3), "uint8")
    probabilities = np.asarray(model(pixels_of(chain.folder, validation)), np.float64).ravel()
    labels = np.array([entry.class_name == "dog" for entry in validation])
    of_right_class = np.where(labels, probabilities, 1 - probabilities)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    scores = metrics(chain.folder)
    assert (of_right_class > 0.5).mean() == pytest.approx(scores["val_accuracy"])
    # the cached activations are rounded to float16
    assert -np.log(of_right_class).mean() == pytest.approx(scores["val_loss"], abs=0.02)


def test_layers_below_the_boundary_are_unchanged(chain: Chain) -> None:
    """Fine-tuning changes every layer above `frozen_through` and none below."""
    model = saving.load(chain.folder / OUTPUT / "model.keras")
    changed = changed_layers(model, weights.read(chain.folder / WEIGHTS))
    assert changed == {"block5_conv1", "block5_conv2", "block5_conv3"}


def test_a_temperature_changes_the_model_and_no_prediction(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The network itself divides its log odds, so whatever loads it has the better probabilities."""
    monkeypatch.chdir(chain.folder)
    monkeypatch.setattr(calibration, "choose_temperature", lambda *_: 2.0)
    model, photographs = saving.load(OUTPUT / "model.keras"), manifest.read(Path("artifacts/split/manifest.csv"))
    pixels = pixels_of(Path(), split(Path(), "validation"))
    before = saving.predict(model, pixels)
    settings = fine_tune.Params.model_validate(PARAMS["fine_tune"])
    recipe = store.read_recipe(FEATURES / "0/recipe.json")
    top = inference.above(model, recipe["boundary"])
    temperature, _ = fine_tune.calibrate(top, model, photographs, recipe, settings, rows_file=tmp_path / "rows.npz")
    assert temperature == 2.0
    np.testing.assert_allclose(saving.predict(model, pixels), calibration.at_temperature(before, 2.0), rtol=1e-4)
    off = settings.model_copy(update={"temperature": "none"})
    assert fine_tune.calibrate(top, model, photographs, recipe, off, rows_file=tmp_path / "rows.npz")[0] == 1.0


def test_the_model_predicts_from_mirror_images_too(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `extract_features.mirror`, a photograph and its mirror image have the same prediction, as the card says.

    The temperature is chosen for these predictions.
    """
    given: list[Any] = []
    monkeypatch.setattr(extraction, "use_one_thread_per_replica", lambda: None)  # possible before TensorFlow starts
    monkeypatch.setattr(calibration, "choose_temperature", lambda _, predicted: given.append(predicted) or 2.0)
    before = json.loads((OUTPUT / "model.json").read_text())
    mirror = {**PARAMS["extract_features"], "mirror": True}
    training = {**PARAMS["fine_tune"]["training"], "epochs": 1}
    write_params(workspace, {"extract_features": mirror, "fine_tune": {**PARAMS["fine_tune"], "training": training}})
    extract_features.main()
    fine_tune.main()

    model, pixels = saving.load(OUTPUT / "model.keras"), pixels_of(Path(), split(Path(), "validation"))
    predicted = saving.predict(model, pixels)
    np.testing.assert_array_equal(saving.predict(model, pixels[:, :, ::-1]), predicted)
    np.testing.assert_allclose(calibration.at_temperature(given[0], 2.0), predicted, atol=2e-3)
    after = json.loads((OUTPUT / "model.json").read_text())
    assert (after["mirror"], "mirror" in before) == (True, False)
    assert after["trained_on"].keys() - before["trained_on"].keys() == {"mirror_images"}


def test_the_card_has_thresholds_for_the_rows_in_its_folder(chain: Chain) -> None:
    """rows.npz has a row for each training photograph; with few validation photographs the card says so."""
    limits = card.read_card(chain.folder / OUTPUT / "model.json", hint="").thresholds
    assert limits
    assert (limits.coverage, limits.lost, limits.calibrated) == (0.99, 0.02, "none")
    rows = neighbours.read(chain.folder / OUTPUT / "rows.npz", sha256=limits.rows, channels=512, hint="")
    assert rows.shape == (len(split(chain.folder, "train")), 512)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2)


def test_a_model_trained_in_bfloat16_is_deployed_in_float32(workspace: Path) -> None:
    """Fine-tuning in bfloat16 trains the same layers to nearly the same scores; the model computes in float32."""
    expected = metrics(workspace)
    write_params(workspace, {"fine_tune": {**PARAMS["fine_tune"], "precision": "bfloat16"}})
    fine_tune.main()
    assert metrics(workspace) == {name: pytest.approx(score, rel=0.05) for name, score in expected.items()}
    model = saving.load(OUTPUT / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert changed_layers(model, weights.read(WEIGHTS)) == {"block5_conv1", "block5_conv2", "block5_conv3"}
    assert json.loads((OUTPUT / "model.json").read_text())["params"]["precision"] == "bfloat16"


def test_the_head_s_model_is_kept_if_no_epoch_beats_it(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a learning rate that ruins the network, the stage keeps the head's model and reports it."""
    caplog.set_level(logging.WARNING)
    head = untrained_head(l2=0.0)
    kernel, bias = head.get_layer("probabilities").get_weights()
    head.get_layer("probabilities").set_weights([kernel * 0, bias])  # at chance level, as a ruined network is
    card = json.loads(HEAD.with_name("model.json").read_text())
    saving.write(HEAD, head, {**card, "sha256": ""})
    write_params(workspace, {"fine_tune": {"training": {**PARAMS["fine_tune"]["training"], "learning_rate": 0.1}}})
    fine_tune.main()
    assert "No epoch of fine-tuning has a validation loss below the head's 0.6931" in caplog.text
    assert metrics(workspace) == {"head_val_loss": pytest.approx(np.log(2)), "epochs": 3, "temperature": 1.0}
    model, base = saving.load(OUTPUT / "model.keras"), weights.read(WEIGHTS)
    assert changed_layers(model, base) == set()
    for kept, expected in zip(model.get_layer("head").get_weights(), head.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.reliability("tampered", "features of other weights than those present", "fine-tuning ends with 65")
@pytest.mark.usefixtures("workspace")
def test_other_weights_than_the_features_have_are_rejected() -> None:
    """The model is not built on a base that the features were not computed with."""
    WEIGHTS.unlink()
    weights.write(WEIGHTS, weights.random(seed=1))
    with pytest.raises(DataError, match=r"vgg16\.weights\.h5 must be the weights that the features were") as rejection:
        fine_tune.main()
    assert str(rejection.value).endswith(rerun_hint("fetch_weights", "extract_features"))


@pytest.mark.reliability(
    "tampered", "a model or a model.json replaced by another one's", "65 with both sha256s and what to do"
)
def test_another_head_than_the_card_s_is_rejected(workspace: Path) -> None:
    """A head that was replaced is not fine-tuned, and every earlier file stays."""
    expected = file_contents(workspace / OUTPUT)
    saving.save(untrained_head(), HEAD)
    with pytest.raises(DataError, match=r"head\.keras must be the network that its model\.json") as rejection:
        fine_tune.main()
    assert str(rejection.value).endswith(rerun_hint("train_head"))
    assert file_contents(workspace / OUTPUT) == expected


def test_training_on_cached_activations_equals_training_the_model(chain: Chain) -> None:
    """The losses on cached activations are those of training the model on photographs, but for float16's rounding."""
    train, base = split(chain.folder, "train"), weights.read(chain.folder / WEIGHTS)
    labels = np.array([[entry.class_name == "dog"] for entry in train], np.float32)
    pixels = pixels_of(chain.folder, train)

    def top() -> list[keras.Layer]:
        return [*vgg16.top_layers(base, above="block4_pool"), untrained_head(dropout=0.0)]

    frozen = keras.Sequential([keras.Input(pixels.shape[1:]), *vgg16.frozen_layers(base, through="block4_pool")])
    unrounded = frozen.predict(pixels, batch_size=8, verbose=0)
    expected = losses(keras.Sequential([frozen, *top()]), pixels, labels)
    assert expected[1] < 0.9 * expected[0]  # it learns, so that equal losses mean something
    above = [keras.Input(unrounded.shape[1:]), *top()]
    assert losses(keras.Sequential(above), unrounded, labels) == pytest.approx(expected, rel=1e-5)
    above = [keras.Input(unrounded.shape[1:]), *top()]
    rounded = losses(keras.Sequential(above), cached(chain.folder, train))
    # measured: 0.00001 in the first epoch, 0.0002 in the second; each step multiplies the first rounding
    assert rounded == pytest.approx(expected, rel=2e-3)


def write_head(head: keras.Model) -> None:
    """Replace the head of a workspace."""
    card = json.loads(HEAD.with_name("model.json").read_text())
    saving.write(HEAD, head, {**card, "sha256": ""})


def weights_of(network: keras.Model) -> np.ndarray[Any, Any]:
    """Return all weights of a network as one vector."""
    return np.concatenate([array.ravel() for array in network.get_weights()])


@pytest.mark.reliability("training", "two devices, killed after an epoch", "it goes on to the result of one device")
def test_two_devices_train_as_one(workspace: Path) -> None:
    """Two devices that share batches of 20 and 4 photographs end with nearly the weights of one, also if resumed.

    The head has batch normalization, but no dropout, whose masks are drawn for each device's part.
    """
    write_head(untrained_head(dropout=0.0))
    training = {**PARAMS["fine_tune"]["training"], "batch_size": 20, "epochs": 2}
    write_params(workspace, {"fine_tune": {**PARAMS["fine_tune"], "training": training}})
    base, recipe, settings = (
        weights.read(WEIGHTS),
        store.read_recipes(FEATURES)[0],
        TrainingParams.model_validate(training),
    )
    _, model = fine_tune.networks(base, HEAD, recipe, "float32", settings)
    fine_tune.main()
    expected, scores = weights_of(saving.load(OUTPUT / "model.keras")), metrics(workspace)
    (OUTPUT / "model.keras").unlink()
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 devices train together" in done.stderr
    assert "goes on after epoch 1" in done.stderr
    difference = weights_of(saving.load(OUTPUT / "model.keras")) - expected
    assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(expected - weights_of(model))
    assert metrics(workspace) == {name: pytest.approx(score, rel=1e-3) for name, score in scores.items()}
