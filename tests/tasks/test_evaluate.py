import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import evaluate
from tests import disks
from transfer.evaluation.inputs import NETWORK_FILES
from transfer.features import store
from transfer.features.views import MIRRORED
from transfer.images import decoding, manifest
from transfer.network import mirroring, saving
from transfer.network.backend import keras
from transfer.network.card import describe
from transfer.runtime.errors import DataError, DiskError, rerun_hint
from transfer.runtime.files import sha256, write_json, write_text
from transfer.sources import synthetic

ROOT = Path(__file__).parents[2]
SIZE = 32
HISTORY = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds\n" + "".join(
    f"{epoch},0.5,0.7,0.{7 - epoch},0.65,0.001,1.5\n" for epoch in (1, 2, 3)
)
INPUTS = ("split", "subsample", "extract_features", "train_head", "fine_tune")
PARAMS = "evaluate: {confidence: 0.95, bins: 10, checked: 4}\n"


def tiny_network(classes: int, *, offset: float = -120.0) -> keras.Model:
    """A small network in the form that `fine_tune` saves, with two convolutions and random weights."""
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    initial = [keras.initializers.HeNormal(seed=number) for number in range(3)]
    head = keras.Sequential(
        [
            keras.Input((SIZE // 4, SIZE // 4, 8)),
            keras.layers.GlobalAveragePooling2D(name="pooling"),
            keras.layers.Dense(units, activation=activation, kernel_initializer=initial[2], name="probabilities"),
        ],
        name="head",
    )
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8", name="photograph"),
            keras.layers.Rescaling(1 / 64, offset=offset / 64, name="preprocessing"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer=initial[0], name="conv1"),
            keras.layers.MaxPooling2D(2, name="boundary"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer=initial[1], name="conv2"),
            keras.layers.MaxPooling2D(2, name="last_pool"),
            head,
        ]
    )


def write_rows(entries: list[manifest.Entry], network: keras.Model, recipe: store.Recipe, *, view: int = 0) -> None:
    """Write the cached activations of a network for view 0 or mirror images, as `extract_features` does."""
    base = keras.Model(network.inputs[0], [network.get_layer("boundary").output, network.get_layer("last_pool").output])
    for entry in entries:
        image = decoding.decode(Path("artifacts/subsample", entry.path).read_bytes())
        pixels = decoding.resize(image, size=SIZE, resizing=recipe["resizing"])
        picture = pixels[:, ::-1] if view == MIRRORED else pixels
        boundary, pooled = (np.asarray(part)[0] for part in base(picture[np.newaxis], training=False))
        row = store.to_row(boundary, pooled)
        path = Path("artifacts/extract_features", store.folder_name(view), f"{entry.sha256}.npz")
        store.write_row(path, row, recipe=store.recipe_digest(recipe), photo=entry.sha256)


def write_stage(name: str, file: str, network: keras.Model, classes: list[str], **files: Path) -> None:
    """Write the outputs of a training stage."""
    folder = Path("artifacts", name)
    recipes = store.read_recipes(Path("artifacts/extract_features"))
    inputs = store.lineage(Path("artifacts/split/manifest.csv"), recipes, **files)
    card = describe(classes, recipes[0], inputs, {"seed": 0}, {"epochs": 3, "best_epoch": 2})
    saving.write(folder / file, network, card)
    write_text(folder / "history.csv", HISTORY)


def write_workspace(classes: list[str], *, of_each: int = 8, draw: Callable[[str, int], bytes] | None = None) -> None:
    """Write the outputs of all stages before `evaluate` to the current folder; half are test photographs."""
    draw = draw or partial(synthetic.draw, size=SIZE + 8, seed=0)
    entries = []
    for class_name in classes:
        for index in range(of_each):
            data = draw(class_name, index)
            entry = manifest.Entry(
                f"photos/{class_name}/{index}.jpg",
                class_name,
                hashlib.sha256(data).hexdigest(),
                SIZE + 8,
                SIZE + 8,
                "test" if index % 2 else "train",
            )
            target = Path("artifacts/subsample", entry.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            entries.append(entry)
    network = tiny_network(len(classes))
    recipe = {"weights": "ab" * 32, "boundary": "boundary", "image_size": SIZE, "resizing": "crop"}
    manifest.write(Path("artifacts/split/manifest.csv"), entries)
    rejected = [manifest.Rejected("cat/&.jpg", "unreadable", "empty file")]
    manifest.write_rejected(Path("artifacts/subsample/rejected.csv"), rejected)
    store.write_recipes(Path("artifacts/extract_features"), {0: recipe})
    write_rows(entries, network, recipe)
    write_stage("train_head", "head.keras", network.get_layer("head"), classes)
    write_stage("fine_tune", "model.keras", network, classes, head=Path("artifacts/train_head/head.keras"))
    Path("params.yaml").write_text(PARAMS)


@pytest.fixture(scope="module")
def complete_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two classes, which tests copy."""
    folder = tmp_path_factory.mktemp("made") / "with a space"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_workspace(["cat", "dog"])
    return folder


@pytest.fixture
def workspace(complete_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, as the current folder."""
    copy = tmp_path / "with a space"
    shutil.copytree(complete_workspace, copy)
    monkeypatch.chdir(copy)
    return copy


def replace(file: Path, network: keras.Model) -> None:
    """Overwrite a network's file with another network, and update the sha256 in its card."""
    saving.save(network, file)
    card = json.loads(file.with_name("model.json").read_text())
    write_json(file.with_name("model.json"), {**card, "sha256": sha256(file)})


def run(workspace: Path) -> subprocess.CompletedProcess[str]:
    """Run the stage in a process, as DVC does."""
    return subprocess.run(
        [sys.executable, "-m", "tasks", "evaluate"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(workspace: Path) -> dict[str, bytes]:
    """The bytes of every output of the stage, by relative path."""
    folder = workspace / "artifacts/evaluate"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def predictions() -> list[dict[str, str]]:
    """The rows of predictions.csv."""
    with Path("artifacts/evaluate/predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_outputs_are_complete_and_reproducible(workspace: Path) -> None:
    """The stage writes scores, predictions, plots and a report, logs their paths, and writes the same bytes again."""
    first = run(workspace)
    assert first.returncode == 0, first.stderr
    files = outputs(workspace)
    plots = {f"plots/{name}.json" for name in ("learning_curves", "learning_curve", "confusion", "roc", "reliability")}
    assert set(files) == {"metrics.json", "predictions.csv", "suspects.csv", "report.html", *plots}
    *_, report, model, metrics = first.stderr.splitlines()
    assert report.endswith("artifacts/evaluate/report.html")
    assert model.endswith("artifacts/fine_tune/model.keras")
    assert metrics.endswith("artifacts/evaluate/metrics.json")
    assert "fine-tuned" in first.stderr
    evaluate.main()
    assert outputs(workspace) == files


@pytest.mark.reliability(
    "disk", "full at the end of an evaluation", "exit 74; no partial output; the next run succeeds once there is space"
)
def test_outputs_appear_together_or_not_at_all(
    complete_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk there is no output at all; once there is space, scores, plots and report are written together."""
    with disks.small(tmp_path / "disk", "size=64k") as disk:
        (disk.path / "artifacts").mkdir()
        for path in (Path("params.yaml"), *(Path("artifacts", name) for name in INPUTS)):
            (disk.path / path).symlink_to(complete_workspace / path)
        with monkeypatch.context() as patch:
            patch.chdir(disk.path)
            with pytest.raises(DiskError, match=r"The disk of `artifacts` must have [\d.]+ kB free\. Received: "):
                evaluate.main()
            assert sorted(path.name for path in Path("artifacts").iterdir()) == sorted(INPUTS)
            disk.mount("remount,size=4m")
            evaluate.main()
        assert "report.html" in outputs(disk.path)


def test_metrics_have_the_documented_names(workspace: Path) -> None:
    """metrics.json has the same scores for both models, McNemar's p and the number of test photographs."""
    evaluate.main()
    metrics = json.loads((workspace / "artifacts/evaluate/metrics.json").read_text())
    names = [
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "balanced_accuracy",
        "log_loss",
        "roc_auc",
        "calibration_error",
    ]
    names += ["recall", "precision"]
    assert list(metrics) == ["train_head", "fine_tune", "mcnemar_p", "test_photographs"]
    assert list(metrics["train_head"]) == list(metrics["fine_tune"]) == names
    assert list(metrics["fine_tune"]["recall"]) == list(metrics["fine_tune"]["precision"]) == ["cat", "dog"]
    assert sum(metrics["fine_tune"]["recall"].values()) / 2 == pytest.approx(metrics["fine_tune"]["accuracy"])
    assert metrics["test_photographs"] == 8


@pytest.mark.usefixtures("workspace")
def test_predictions_from_cached_activations_equal_those_from_pixels() -> None:
    """Pixels, boundary and pooled features give the same probabilities if fine-tuning has changed nothing."""
    evaluate.main()
    network = saving.load(Path("artifacts/fine_tune/model.keras"))
    lines = predictions()
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    assert len(lines) == 8
    for line in lines:
        image = decoding.decode(Path("artifacts/subsample", line["path"]).read_bytes())
        pixels = decoding.resize(image, size=SIZE, resizing="crop")
        expected = float(np.asarray(network(pixels[np.newaxis]))[0, 0])
        for model in ("train_head", "fine_tune"):
            dog = float(line[f"{model}_probability_dog"])
            assert dog == pytest.approx(expected, abs=1e-3)
            assert float(line[f"{model}_probability_cat"]) == pytest.approx(1 - dog)
            assert line[f"{model}_class"] == ("dog" if dog > 0.5 else "cat")
            assert float(line[f"{model}_confidence"]) == max(dog, float(line[f"{model}_probability_cat"]))


def test_a_network_that_mirrors_is_evaluated(workspace: Path) -> None:
    """Both networks are scored by the mean of their log odds for photographs and mirror images, as one is deployed.

    Without the features of mirror images, the network is refused.
    """
    folder, network = workspace / "artifacts/extract_features", tiny_network(2)
    [recipe], entries = store.read_recipes(folder), manifest.read(workspace / "artifacts/split/manifest.csv")
    mirrored, test = recipe | {"mirrored": True}, [entry for entry in entries if entry.split == "test"]
    store.write_recipes(folder, {MIRRORED: mirrored})
    write_rows(test, network, mirrored, view=MIRRORED)
    head, file = (workspace / "artifacts" / stage / name for stage, name in NETWORK_FILES.items())
    photograph = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="photograph")
    both = mirroring.build(photograph, network.layers)
    inputs = store.lineage(workspace / "artifacts/split/manifest.csv", [recipe], mirrored=mirrored, head=head)
    card = describe(["cat", "dog"], recipe, inputs, {"seed": 0}, {"epochs": 3, "best_epoch": 2}, mirror=True)
    saving.write(file, both, card)
    evaluate.main()
    for line in predictions():
        image = decoding.decode(Path("artifacts/subsample", line["path"]).read_bytes())
        [[_, dog]] = saving.predict(both, decoding.resize(image, size=SIZE, resizing="crop")[np.newaxis])
        for model in NETWORK_FILES:  # the head is that of the fine-tuned network
            assert float(line[f"{model}_probability_dog"]) == pytest.approx(dog, abs=1e-3)
    assert "extract_features.<wbr>mirror" in (workspace / "artifacts/evaluate/report.html").read_text()

    shutil.rmtree(folder / "mirrored")
    with pytest.raises(DataError, match="a network trained on other mirror images"):
        evaluate.main()


def test_three_classes_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more than two classes, each has a probability, and the probabilities sum to one."""
    monkeypatch.chdir(tmp_path)
    write_workspace(["cat", "dog", "rabbit"], of_each=6)
    evaluate.main()
    for line in predictions():
        probabilities = {name: float(line[f"fine_tune_probability_{name}"]) for name in ("cat", "dog", "rabbit")}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert probabilities[line["fine_tune_class"]] == max(probabilities.values())


@pytest.mark.reliability(
    "training", "photographs of one colour", "if the parameters allow them, a report at chance level"
)
def test_photographs_of_one_colour_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all photographs look the same, the scores are at chance level, and no score, curve or heat map is missing."""

    def flat(class_name: str, index: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (SIZE, SIZE), "grey").save(file, "JPEG", comment=f"{class_name} {index}".encode())
        return file.getvalue()

    monkeypatch.chdir(tmp_path)
    write_workspace(["cat", "dog"], draw=flat)
    evaluate.main()
    scores = json.loads(Path("artifacts/evaluate/metrics.json").read_text())["fine_tune"]
    assert (scores["accuracy"], scores["roc_auc"]) == (0.5, 0.5)
    assert Path("artifacts/evaluate/report.html").exists()


def test_a_changed_network_is_refused(workspace: Path) -> None:
    """A network that disagrees with the cached features is refused; the message has the file and the rerun hint."""
    replace(workspace / "artifacts/fine_tune/model.keras", tiny_network(2, offset=0.0))
    with pytest.raises(DataError) as refusal:
        evaluate.main()
    last = str(refusal.value)
    assert "artifacts/fine_tune/model.keras must predict the same for photos/" in last
    assert last.endswith(rerun_hint("extract_features", "fine_tune"))
    assert not (workspace / "artifacts/evaluate").exists()


def test_a_damaged_photograph_is_refused(workspace: Path) -> None:
    """A photograph truncated after `subsample` is refused; the message has its path and the rerun hint."""
    photographs = [entry for entry in manifest.read(Path("artifacts/split/manifest.csv")) if entry.split == "test"]
    damaged = min(photographs, key=lambda entry: entry.sha256)
    path = workspace / "artifacts/subsample" / damaged.path
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError) as refusal:
        evaluate.main()
    last = str(refusal.value)
    assert last.startswith(f"artifacts/subsample/{damaged.path} must be")
    assert last.endswith(rerun_hint("subsample"))


@pytest.mark.reliability("tampered", "a damaged model.json", "65 with the wrong field and what to do")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"classes": ["cat", "dog"]}', '{"classes": 2}'])
@pytest.mark.parametrize("name", ["train_head", "fine_tune"])
def test_a_damaged_model_card_is_refused(workspace: Path, name: str, content: str) -> None:
    """A model.json that is not JSON or incomplete is refused; the message has its path and the rerun hint."""
    (workspace / "artifacts" / name / "model.json").write_text(content)
    with pytest.raises(DataError) as refusal:
        evaluate.main()
    assert str(refusal.value).startswith(f"artifacts/{name}/model.json must be JSON with sha256, classes")
    assert str(refusal.value).endswith(rerun_hint(name))


@pytest.mark.reliability(
    "tampered", "features of other weights than the model's", "evaluation ends with 65: predictions differ"
)
def test_features_of_another_network_are_refused(workspace: Path) -> None:
    """Cached activations that another network computed are refused."""
    entries = manifest.read(workspace / "artifacts/split/manifest.csv")
    [recipe] = store.read_recipes(workspace / "artifacts/extract_features")
    write_rows(entries, tiny_network(2, offset=0.0), recipe)
    with pytest.raises(DataError, match="from its pixels and from its cached activations"):
        evaluate.main()


@pytest.mark.reliability("tampered", "a manifest.csv changed after training", "evaluation ends with 65")
def test_a_network_trained_on_another_split_is_refused(workspace: Path) -> None:
    """A network that may have been trained on test photographs is not scored."""
    entries = manifest.read(workspace / "artifacts/split/manifest.csv")
    swapped = {"test": "train", "train": "test"}
    manifest.write(
        workspace / "artifacts/split/manifest.csv", [entry._replace(split=swapped[entry.split]) for entry in entries]
    )
    with pytest.raises(DataError, match="trained on other photographs"):
        evaluate.main()


def test_a_retrained_head_is_refused(workspace: Path) -> None:
    """A fine-tuned network is only compared with the head that it was initialized with."""
    replace(workspace / "artifacts/train_head/head.keras", tiny_network(2))
    with pytest.raises(DataError, match="trained on other head"):
        evaluate.main()


@pytest.mark.reliability(
    "tampered", "a model or a model.json replaced by another one's", "65 with both sha256s and what to do"
)
@pytest.mark.parametrize("name", ["train_head", "fine_tune"])
def test_a_network_with_another_sha256_than_its_card_is_refused(workspace: Path, name: str) -> None:
    """A replaced model file is not scored, even if its architecture is the same."""
    file = workspace / "artifacts" / name / NETWORK_FILES[name]
    network = saving.load(file)
    network.set_weights([weights * 2 for weights in network.get_weights()])
    saving.save(network, file)
    with pytest.raises(
        DataError, match=rf"{file.name} must be the network that its model\.json was made with"
    ) as refusal:
        evaluate.main()
    assert str(refusal.value).endswith(rerun_hint(name))


def test_the_report_shows_the_inputs(workspace: Path) -> None:
    """Diagnoses, photographs with heat maps, rejections, versions and parameters come from this run."""
    evaluate.main()
    html = (workspace / "artifacts/evaluate/report.html").read_text()
    assert "Training of the head: few epochs" in html  # three epochs
    wrong = [line for line in predictions() if line["fine_tune_class"] != line["class"]]
    suspected = (workspace / "artifacts/evaluate/suspects.csv").read_text().splitlines()[1:]
    assert suspected
    # all eight are in the gallery of the least certain; suspects have no heat map
    assert html.count("data:image/jpeg") == 2 * (len(wrong) + 8) + len(suspected)
    assert "photos/cat/11.jpg" not in html
    assert "cat/&amp;.jpg" in html
    assert re.search(rf"Keras</th>\s*<td>{keras.__version__}<", html)
    assert "extract_features.<wbr>frozen_through" in html
