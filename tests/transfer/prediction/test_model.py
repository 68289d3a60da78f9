import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import exportable, thresholds
from tests.conftest import Reproduced
from transfer.evaluation import heatmaps
from transfer.images import decoding
from transfer.network import mirroring, neighbours, saving
from transfer.network.backend import keras
from transfer.network.card import describe
from transfer.prediction.model import Model, load
from transfer.runtime.errors import DataError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(reproduced: Reproduced) -> Model:
    """The demo's model."""
    return load(reproduced.workspace / "artifacts/fine_tune/model.keras")


@pytest.fixture(scope="module")
def evaluated(reproduced: Reproduced) -> dict[Path, dict[str, str]]:
    """The row of predictions.csv of each test photograph, by the photograph's path."""
    with (reproduced.workspace / "artifacts/evaluate/predictions.csv").open(newline="") as file:
        return {reproduced.workspace / "artifacts/subsample" / row["path"]: row for row in csv.DictReader(file)}


def small(folder: Path, *, units: int = 1, **changes: Any) -> Path:
    """Write a small network and its card, with changes to the card."""
    last = keras.layers.Dense(units, activation="sigmoid" if units == 1 else "softmax", kernel_initializer="ones")
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), last]
    classes = ["ant", "bee", "cat"][: max(units, 2)]
    card = describe(classes, {"image_size": 8, "resizing": "crop"}, {}, {}, {})
    network = keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), *layers])
    saving.write(folder / "model.keras", network, {**card, **changes})
    return folder / "model.keras"


def images(paths: list[Path]) -> list[Image.Image]:
    """Decode photographs."""
    return [decoding.decode(path.read_bytes()) for path in paths]


def test_predictions_are_those_of_the_evaluation(model: Model, evaluated: dict[Path, dict[str, str]]) -> None:
    """Predictions from files equal those from cached activations, up to rounding to float16."""
    answers = model.each(images(list(evaluated)))
    for answer, row in zip(answers, evaluated.values(), strict=True):
        for class_name, probability in answer.probabilities.items():
            assert probability == pytest.approx(float(row[f"fine_tune_probability_{class_name}"]), abs=5e-3)
        assert answer.probability == max(answer.probabilities.values())
        assert answer.probabilities[answer.class_name] == answer.probability
        assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_a_prediction_does_not_depend_on_other_photographs(model: Model, evaluated: dict[Path, dict[str, str]]) -> None:
    """A photograph has the same prediction, bit for bit, from a file or bytes, alone or in any batch."""
    first, second, third = list(evaluated)[:3]
    alone = model(first)
    assert model(str(first)) == model(first.read_bytes()) == alone
    three, two = model.each(images([first, second, third])), model.each(images([third, first]))
    assert three[0] == two[1] == alone
    assert three[2] == two[0] == model(third)


def test_an_explanation_has_the_prediction_and_its_heat_map(
    model: Model, reproduced: Reproduced, evaluated: dict[Path, dict[str, str]]
) -> None:
    """An explanation has the same prediction, and the heat map for the predicted class."""
    paths = list(evaluated)[:3]
    network = saving.load(reproduced.workspace / "artifacts/fine_tune/model.keras")
    answers, explanations = model.each(images(paths)), model.explain(images(paths))
    for path, answer, (explained, heat) in zip(paths, answers, explanations, strict=True):
        assert explained.class_name == answer.class_name
        assert explained.probability == pytest.approx(answer.probability, rel=1e-5)
        pixels = decoding.resize(decoding.decode(path.read_bytes()), size=32, resizing="crop")
        expected = heatmaps.grad_cam(network, pixels[np.newaxis], [model.card.classes.index(answer.class_name)])
        np.testing.assert_allclose(heat, expected[0], atol=1e-4)


def test_the_documented_python_works(
    reproduced: Reproduced, evaluated: dict[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python code of docs/predict.md runs, and `answer` has the documented attributes."""
    document = (ROOT / "docs/predict.md").read_text(encoding="utf-8")
    program = re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    shutil.copy(next(iter(evaluated)), tmp_path / "photograph.jpg")
    (tmp_path / "artifacts").symlink_to(reproduced.workspace / "artifacts")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(program), names)  # noqa: S102 - the project's own document
    answer = names["answer"]
    assert all(hasattr(answer, name) for name in re.findall(r"`answer\.(\w+)`", document))
    assert answer.class_name == next(iter(evaluated.values()))["fine_tune_class"]


def test_each_of_three_classes_has_a_probability(tmp_path: Path) -> None:
    """With more than two classes, each has a probability under its name, in the order of the card."""
    model = load(small(tmp_path, units=3))
    [answer] = model.each([Image.new("RGB", (9, 9))])
    assert answer.probabilities == pytest.approx({"ant": 1 / 3, "bee": 1 / 3, "cat": 1 / 3})


@pytest.mark.parametrize("always", [False, True])
def test_a_photograph_and_its_mirror_image_have_the_same_answer(tmp_path: Path, *, always: bool) -> None:
    """With a network that mirrors, alone, with heat maps and with features, each is that of the network itself."""
    network, pixels = exportable.network(), exportable.pixels(3)
    both = mirroring.build(keras.Input(pixels.shape[1:], dtype="uint8", name="photograph"), network.layers)
    rows = np.random.default_rng(0).uniform(size=(20, 4)).astype(np.float32)
    limits = thresholds.limits(rows=neighbours.write(tmp_path / "rows.npz", neighbours.normalize(rows)), distance=0.4)
    recipe = {"image_size": exportable.SIZE, "resizing": "crop"}
    card = describe(["cat", "dog"], recipe, {}, {}, {}, thresholds=limits, mirror=True)
    saving.write(tmp_path / "model.keras", both, card)
    loaded = load(tmp_path / "model.keras", always=always)

    originals, mirrored = ([Image.fromarray(each) for each in side] for side in (pixels, pixels[:, :, ::-1]))
    answers, explanations = loaded.each(originals), loaded.explain(originals)
    assert loaded.each(mirrored) == answers
    explained = [explanation.prediction for explanation in explanations]
    described = [description.prediction for description in loaded.describe(originals)]
    for number, [_, dog] in enumerate(saving.predict(both, pixels)):
        for predictions in (answers, explained, described):
            assert predictions[number].probabilities["dog"] == pytest.approx(dog, rel=1e-4)
            assert predictions[number].answer == answers[number].answer
    heats = [explanation.heat for explanation in explanations]
    numbers = [loaded.card.classes.index(answer.class_name) for answer in answers]
    np.testing.assert_allclose(heats, heatmaps.grad_cam(both, pixels, numbers), atol=1e-4)


@pytest.mark.reliability("tampered", "a model that does not fit its model.json", "65 with the shapes of both")
@pytest.mark.parametrize(
    "change", [{"image_size": 9}, {"classes": ["ant", "bee", "cat"]}, {"classes": ["ant", "bee"], "image_size": 224}]
)
def test_a_model_that_does_not_fit_its_card_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A network with other shapes than its card's is refused; the message has the shapes of both."""
    with pytest.raises(DataError, match=r"model\.keras must have the input shape .* Received: \(None, 8, 8, 3\) and"):
        load(small(tmp_path, **change))


def test_a_head_alone_is_refused(reproduced: Reproduced) -> None:
    """The head alone, whose input is features, cannot be used to predict photographs."""
    with pytest.raises(DataError, match="Use a complete network"):
        load(reproduced.workspace / "artifacts/train_head/head.keras")


@pytest.mark.reliability(
    "tampered", "a model or a model.json replaced by another one's", "65 with both sha256s and what to do"
)
def test_the_card_of_another_model_is_refused(tmp_path: Path) -> None:
    """A card with another sha256 is refused, even if the shapes agree: its classes may be in another order."""
    file = small(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    card = small(tmp_path / "elsewhere", units=1, classes=["bee", "ant"]).with_name("model.json")
    changed = {**json.loads(card.read_text()), "sha256": "ab" * 32}
    (tmp_path / "model.json").write_text(json.dumps(changed))
    with pytest.raises(
        DataError, match=r"Received: [0-9a-f]{12}\. Use a network and a model\.json that were saved together\."
    ):
        load(file)


def test_a_missing_file_is_reported_with_a_hint(tmp_path: Path) -> None:
    """If the model or its card is missing, the message tells where to get it."""
    with pytest.raises(DataError, match=r"model\.keras is missing. Run `dvc repro` .* or `dvc pull`"):
        load(tmp_path / "model.keras")
    file = small(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"classes": 2}))
    with pytest.raises(DataError, match=r"model\.json must be JSON"):
        load(file)
    (tmp_path / "model.json").unlink()
    with pytest.raises(DataError, match=r"must have a model\.json"):
        load(file)


def test_a_file_that_is_not_a_photograph_raises(tmp_path: Path) -> None:
    """A file that is not a photograph, and a missing file, raise an error with the reason."""
    model = load(small(tmp_path))
    with pytest.raises(decoding.UnreadablePhoto, match="not one of JPEG"):
        model(tmp_path / "model.json")
    with pytest.raises(FileNotFoundError):
        model(tmp_path / "photograph.jpg")


def with_thresholds(folder: Path, **changes: Any) -> Path:
    """Write a small network that takes dark photographs for bees, with rows of black and of green photographs."""
    last = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="zeros", bias_initializer="ones")
    head = keras.Sequential([keras.Input((4, 4, 4)), keras.layers.GlobalAveragePooling2D(), last], name="head")
    convolution = keras.layers.Conv2D(4, 1)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            convolution,
            keras.layers.MaxPooling2D(2),
            head,
        ]
    )
    kernel = np.eye(3, 4, dtype=np.float32)[np.newaxis, np.newaxis]
    convolution.set_weights([kernel, np.array([0, 0, 0, 0.1], np.float32)])
    head.layers[-1].set_weights([np.array([[-4], [0], [0], [0]], np.float32), np.array([0.5], np.float32)])
    rows = neighbours.normalize(np.array([[0, 0, 0, 0.1], [0, 1, 0, 0.1], [1, 1, 0, 0.1]], np.float32))
    limits = thresholds.limits(
        plausible={"ant": 0.3, "bee": 0.3},
        lost=0.1,
        distance=0.1,
        neighbours=1,
        rows=neighbours.write(folder / neighbours.FILE_NAME, rows),
    )
    card = describe(["ant", "bee"], {"image_size": 8, "resizing": "crop"}, {}, {}, {}, thresholds=limits)
    saving.write(folder / "model.keras", network, {**card, **changes})
    return folder / "model.keras"


def test_an_answer_may_be_no_class(tmp_path: Path) -> None:
    """Two plausible classes give "not sure", a photograph unlike others "none of these"; with heat maps, too.

    The predicted class and its probability stay.
    """
    model = load(with_thresholds(tmp_path))
    photographs = [Image.new("RGB", (8, 8), colour) for colour in ("yellow", "lime", "blue")]
    answers = model.each(photographs)
    assert [prediction.answer for prediction in answers] == ["ant", "not sure", "none of these"]
    assert [prediction.class_name for prediction in answers] == ["ant", "bee", "bee"]
    explained = [explanation.prediction for explanation in model.explain(photographs)]
    assert [prediction.answer for prediction in explained] == [prediction.answer for prediction in answers]
    always = load(tmp_path / "model.keras", always=True)
    assert [prediction.answer for prediction in always.each(photographs)] == ["ant", "bee", "bee"]


def test_a_network_of_an_earlier_version_always_answers(tmp_path: Path) -> None:
    """Its card has no thresholds."""
    [prediction] = load(small(tmp_path)).each([Image.new("RGB", (8, 8))])
    assert prediction.answer == prediction.class_name


def test_missing_rows_are_named(tmp_path: Path) -> None:
    """A network whose card has thresholds needs them, or the option to answer always."""
    file = with_thresholds(tmp_path)
    (tmp_path / neighbours.FILE_NAME).unlink()
    with pytest.raises(DataError, match=r"rows\.npz must be .* no such file\. Copy it .* `--answer always`"):
        load(file)
    assert load(file, always=True).card.thresholds


def test_a_description_has_the_prediction_and_features(model: Model, evaluated: dict[Path, dict[str, str]]) -> None:
    """Predictions are those of `each`; the features of two files of one photograph are equal, those of others not."""
    first, second = list(evaluated)[:2]
    described = model.describe(images([first, second, first]))
    for (prediction, _), expected in zip(described, model.each(images([first, second, first])), strict=True):
        assert prediction.class_name == expected.class_name
        assert prediction.probability == pytest.approx(expected.probability, abs=1e-5)
    np.testing.assert_allclose(described[0].features, described[2].features, rtol=1e-4, atol=1e-4)
    assert described[0].features.ndim == 1
    assert not np.allclose(described[0].features, described[1].features)
