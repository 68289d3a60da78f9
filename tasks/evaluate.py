"""Evaluate the head and the fine-tuned network on the test split, and show what came of it."""

import csv
import io
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from transfer import __version__
from transfer.evaluation import diagnosis, heatmaps, report, scores
from transfer.evaluation.scores import Findings, Probabilities
from transfer.features import dataset, store
from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.network.backend import keras, tf
from transfer.network.card import Card, verified_card
from transfer.runtime import files, params, paths, progress
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training import history

log = logging.getLogger(__name__)

STAGE = "evaluate"
HEAD, TUNED = "train_head", "fine_tune"  # the stages whose networks are evaluated, in the order in which they run
FILES = {HEAD: "head.keras", TUNED: "model.keras"}
BATCH = 32  # photographs predicted at once
SHOWN = 12  # photographs of a kind in the report

# How far the whole network's log odds may lie from those of the cached path, where float16's rounding of the
# activations is all that parts them. Measured with VGG16 at 64, 180 and 224 pixels and two heads: 0.008 at most.
# Channels in the wrong order or another way of resizing make a difference of 0.04 with a network that has learned
# nothing, and of 4 to 30 with one that has.
TOLERANCE = 0.05
SUREST = 1e-5  # log odds are compared up to this distance from 0 and 1: beyond, float32 has too few digits left


class Params(params.Section):
    """How the scores are taken."""

    confidence: float = Field(gt=0, lt=1, description="of the intervals")
    bins: int = Field(ge=1, le=100, description="of confidence, in the reliability diagram")
    checked: int = Field(ge=1, le=1000, description="photographs on which the saved network must agree with the cache")


class Networks(NamedTuple):
    """Both networks: the head on pooled features, the whole one on pixels, and its part above the boundary."""

    head: keras.Model
    whole: keras.Model
    top: keras.Model


class Trained(NamedTuple):
    """A network as its stage left it: the file, `model.json` and `history.csv`."""

    file: Path
    card: Card
    history: list[dict[str, float]]


def above(whole: keras.Model, boundary: str) -> keras.Model:
    """The part of a whole network that takes what leaves the layer `boundary`.

    Raises:
        DataError: there is no such layer.
    """
    names = [layer.name for layer in whole.layers]
    if boundary not in names:
        raise DataError(
            f"The network must have the layer `{boundary}`, up to which the features are computed. "
            f"Received: {', '.join(names)}. {rerun_hint(TUNED)}"
        )
    index = names.index(boundary)
    return keras.Sequential([keras.Input(whole.layers[index].output.shape[1:]), *whole.layers[index + 1 :]])


def predict_all(network: keras.Model, batches: dataset.FeatureDataset, *, name: str) -> Probabilities:
    """The probabilities of every photograph, a batch in memory at a time."""
    with progress.bar(total=len(batches), description=f"{STAGE} {name}", unit="batches") as bar:
        predicted = []
        for number in range(len(batches)):
            predicted.append(saving.predict(network, batches[number][0].astype(np.float32)))
            bar.update()
    return np.concatenate(predicted)


def refuse_disagreement(
    photographs: Sequence[manifest.Entry], whole: Iterator[Probabilities], cached: Probabilities, file: Path
) -> None:
    """Stop where the network that takes pixels says something else than the one that takes cached activations.

    Args:
        photographs: those to compare.
        whole: what the whole network makes of each; array of shape (1, classes).
        cached: what its upper part makes of their cached activations.
        file: the network's.

    Raises:
        DataError: with the first photograph on which they disagree.
    """
    for photograph, [direct], from_cache in zip(photographs, whole, cached, strict=True):
        if np.abs(_log_odds(direct) - _log_odds(from_cache)).max() > TOLERANCE:
            raise DataError(
                f"{file} must give {photograph.path} the probabilities it gives its cached activations, up to "
                f"rounding. Received: {_in_words(direct)} from the photograph, {_in_words(from_cache)} from the cache. "
                f"One of the two is not what its stage made. {rerun_hint('extract_features', TUNED)}"
            )


def _log_odds(probabilities: Probabilities) -> Probabilities:
    kept = probabilities.clip(SUREST, 1 - SUREST)
    odds: Probabilities = np.log(kept) - np.log1p(-kept)
    return odds


def _in_words(probabilities: Probabilities) -> str:
    return " / ".join(f"{probability:.4f}" for probability in probabilities)


def refuse_missing_classes(photographs: Sequence[manifest.Entry], classes: Sequence[str]) -> None:
    """Stop where a class has no photograph to be scored on.

    Raises:
        DataError: with the class.
    """
    missing = sorted(set(classes) - {photograph.class_name for photograph in photographs})
    if missing:
        raise DataError(
            f"The test split must have photographs of each class. Received: none of {', '.join(missing)}. "
            "Raise `subsample.photographs` or `split.test`."
        )


def refuse_strangers(name: str, trained: Trained, classes: Sequence[str], inputs: Mapping[str, Any]) -> None:
    """Stop where a network was trained on something else: it may have seen the photographs it is scored on.

    Raises:
        DataError: with what is different.
    """
    received = {"classes": trained.card.classes, **trained.card.trained_on}
    different = [key for key, value in {"classes": list(classes), **inputs}.items() if received.get(key) != value]
    if different:
        raise DataError(
            f"{trained.file} must come from the photographs and features that are there now. Received: other "
            f"{' and '.join(different)}. Run `dvc repro {name}`."
        )


def metrics(
    findings: Mapping[str, Findings], comparison: scores.Comparison, classes: Sequence[str], *, photographs: int
) -> dict[str, Any]:
    """The content of metrics.json; precision is null where nothing is taken for the class."""
    by_model = {
        name: {
            **found.scores._asdict(),
            **{
                score: {
                    class_name: getattr(each, score) for class_name, each in zip(classes, found.classes, strict=True)
                }
                for score in ("recall", "precision")
            },
        }
        for name, found in findings.items()
    }
    return {**by_model, "mcnemar_p": comparison.p, "test_photographs": photographs}


def predictions(
    photographs: Sequence[manifest.Entry], predicted: Mapping[str, Probabilities], classes: Sequence[str]
) -> str:
    """The content of predictions.csv: for each photograph and model the class, its probability and every class's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [
        f"{name}_{column}" for name in predicted for column in ("class", "confidence", *_probability_of(classes))
    ]
    writer.writerow(["path", "sha256", "class", *columns])
    for index, photograph in enumerate(photographs):
        cells = [cell for probabilities in predicted.values() for cell in _cells(probabilities[index], classes)]
        writer.writerow([photograph.path, photograph.sha256, photograph.class_name, *cells])
    return text.getvalue()


def _probability_of(classes: Sequence[str]) -> list[str]:
    return [f"probability_{class_name}" for class_name in classes]


def _cells(probabilities: Probabilities, classes: Sequence[str]) -> list[str]:
    best = int(probabilities.argmax())
    digits = [f"{probability:.9g}" for probability in probabilities]  # as many as tell float32 numbers apart
    return [classes[best], digits[best], *digits]


def plots(
    epochs: Sequence[history.CurvePoint], findings: Mapping[str, Findings], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The data of each plot, by its name: what the templates in .dvc/plots draw."""
    return {
        "learning_curves": [epoch._asdict() for epoch in epochs],
        "confusion": [
            {
                "model": name,
                "actual": actual,
                "predicted": predicted,
                "photographs": count,
                "of_actual": count / sum(row),
            }
            for name, found in findings.items()
            for actual, row in zip(classes, found.confusion, strict=True)
            for predicted, count in zip(classes, row, strict=True)
        ],
        "roc": [
            {"model": name, "order": order, **point._asdict()}
            for name, found in findings.items()
            for order, point in enumerate(found.roc)
        ],
        "reliability": [{"model": name, **each._asdict()} for name, found in findings.items() for each in found.bins],
    }


def picture(
    photograph: manifest.Entry,
    probabilities: NDArray[np.float64],
    heat: heatmaps.HeatMap,
    *,
    classes: Sequence[str],
    folder: Path,
    resizing: decoding.Resizing,
) -> report.Picture:
    """A photograph as the report shows it.

    Args:
        photograph: which.
        probabilities: what a model gives it for each class.
        heat: what spoke for the likeliest of them, as from `heatmaps.of`.
        classes: in the order of their numbers.
        folder: where `photograph.path` begins.
        resizing: how the model saw it.

    Raises:
        DataError: its file is not what the manifest says.
    """
    small = report.thumbnail(decoding.read_photo(folder / photograph.path, sha256=photograph.sha256))
    likeliest = np.argsort(-probabilities, kind="stable")[:2]
    return report.Picture(
        path=photograph.path,
        class_name=photograph.class_name,
        choices=[report.Choice(classes[number], float(probabilities[number])) for number in likeliest],
        thumbnail=report.data_uri(small),
        heat=report.data_uri(heatmaps.overlay(small, heat, resizing=resizing)),
    )


def table(findings: Mapping[str, Findings], settings: Params) -> str:
    """The scores as lines to read in a terminal."""
    heading = f"{100 * settings.confidence:g} % interval"
    lines = [f"{'':12}{'accuracy':>10}{heading:>20}{'log loss':>10}{'ROC AUC':>9}{'calibration error':>19}"]
    for name, found in findings.items():
        each = found.scores
        interval = f"{100 * each.accuracy_low:.1f} to {100 * each.accuracy_high:.1f} %"
        lines.append(
            f"{name:12}{100 * each.accuracy:8.1f} %{interval:>20}{each.log_loss:10.4f}{each.roc_auc:9.4f}"
            f"{each.calibration_error:19.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Fill artifacts/evaluate/: metrics.json, predictions.csv, plots/ and report.html."""
    settings = params.load(STAGE, Params)
    everything = manifest.read(paths.artifact("split", "manifest.csv"))
    rejected = manifest.read_rejected(paths.artifact("subsample", "rejected.csv"))
    classes = manifest.classes(everything)
    photographs = sorted((entry for entry in everything if entry.split == "test"), key=lambda entry: entry.path)
    refuse_missing_classes(photographs, classes)
    recipes = store.read_recipes(paths.artifact("extract_features"))
    trained = {name: _trained(name) for name in FILES}
    inputs = store.lineage(paths.artifact("split", "manifest.csv"), recipes)
    refuse_strangers(HEAD, trained[HEAD], classes, inputs)
    refuse_strangers(TUNED, trained[TUNED], classes, {**inputs, "head": files.sha256(trained[HEAD].file)})

    networks = _networks(trained, recipes[0])
    predicted = _predicted(networks, photographs, classes, recipes[0], checked=settings.checked)
    labels = np.array([classes.index(photograph.class_name) for photograph in photographs])
    findings = {
        name: scores.score(labels, probabilities, confidence=settings.confidence, bins=settings.bins)
        for name, probabilities in predicted.items()
    }
    comparison = scores.compare(labels, predicted[HEAD], predicted[TUNED])
    used = _params_in_words(recipes, trained)
    diagnoses = {name: _diagnosis(name, each, used, classes=len(classes)) for name, each in trained.items()}
    epochs = history.concatenate(
        [_phase(name, each)._replace(over_fits_from=diagnoses[name].over_fits_from) for name, each in trained.items()]
    )
    resizing = recipes[0]["resizing"]
    show = partial(_pictures, networks.top, photographs, predicted[TUNED], classes=classes, resizing=resizing)
    page = report.Report(
        classes=classes,
        photographs=_by_split(everything, classes),
        reasons=report.by_reason(rejected),
        confidence=settings.confidence,
        findings=findings,
        comparison=comparison,
        diagnoses=diagnoses,
        learning_curves=report.learning_curves(epochs),
        figures=[report.roc(findings), report.reliability(findings)],
        mistakes=show(scores.most_confident_errors(labels, predicted[TUNED])[:SHOWN]),
        uncertain=show(scores.least_certain(predicted[TUNED])[:SHOWN]),
        params=used,
        hashes={
            "photographs": inputs["photographs"],
            "weights": recipes[0]["weights"],
            **{FILES[name]: files.sha256(each.file) for name, each in trained.items()},
        },
        versions=_versions(),
    )
    with files.atomic_folder(paths.artifact(STAGE)) as folder:
        scored = metrics(findings, comparison, classes, photographs=len(photographs))
        files.write_json(folder / "metrics.json", scored)
        files.write_text(folder / "predictions.csv", predictions(photographs, predicted, classes))
        for name, rows in plots(epochs, findings, classes).items():
            files.write_json(folder / "plots" / f"{name}.json", rows)
        files.write_text(folder / "report.html", report.render(page))
    log.info("%s", table(findings, settings))
    log.info("%d test photographs; do the two differ? McNemar p = %.3g", len(photographs), comparison.p)
    log.info("%s", "; ".join(f"{name}: {diagnosis.in_words(each)}" for name, each in diagnoses.items()))
    for name, path in (
        ("report", _made("report.html")),
        ("model", trained[TUNED].file),
        ("scores", _made("metrics.json")),
    ):
        log.info("%-8s %s", name, path)


def _params_in_words(recipes: Sequence[store.Recipe], trained: Mapping[str, Trained]) -> dict[str, object]:
    """Params of features and trainings, with the augmentation of the views where there are any."""
    recipe = {_PARAM_OF.get(name, name): value for name, value in recipes[-1].items() if name != "weights"}
    return report.flat(
        {
            "extract_features": {"views": len(recipes) - 1, **recipe},
            **{name: each.card.params for name, each in trained.items()},
        }
    )


_PARAM_OF = {"boundary": "frozen_through"}  # where a recipe has another name for it


def _phase(name: str, trained: Trained) -> history.Phase:
    kept = trained.card.scores.get("best_epoch")
    return history.Phase(name, trained.history, None if kept is None else int(kept))


def _diagnosis(name: str, trained: Trained, used: Mapping[str, object], *, classes: int) -> diagnosis.Diagnosis:
    found = diagnosis.diagnose(_phase(name, trained), classes=classes)
    return found._replace(remedies=diagnosis.applicable(found.remedies, used))


def _by_split(photographs: Sequence[manifest.Entry], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter((split, one.class_name) for one in photographs for split in (one.split, "all"))
    return {split: {name: counts[split, name] for name in classes} for split in ("train", "validation", "test", "all")}


def _versions() -> dict[str, str]:
    return {
        "dogs-vs-cats": __version__,
        "Python": platform.python_version(),
        "Keras": keras.__version__,
        "TensorFlow": tf.__version__,
    }


def _made(name: str) -> Path:
    return paths.artifact(STAGE, name)


def _trained(name: str) -> Trained:
    file = paths.artifact(name, FILES[name])
    card = verified_card(file, cure=rerun_hint(name))
    return Trained(file, card, history.read_history(paths.artifact(name, "history.csv")))


def _networks(trained: Mapping[str, Trained], recipe: store.Recipe) -> Networks:
    head, whole = (saving.load(each.file) for each in trained.values())
    return Networks(head, whole, above(whole, recipe["boundary"]))


def _cached(
    photographs: Sequence[manifest.Entry], classes: Sequence[str], part: dataset.Part
) -> dataset.FeatureDataset:
    return dataset.FeatureDataset(
        paths.artifact("extract_features"), photographs, classes=classes, part=part, batch_size=BATCH
    )


def _predicted(
    networks: Networks,
    photographs: Sequence[manifest.Entry],
    classes: Sequence[str],
    recipe: store.Recipe,
    *,
    checked: int,
) -> dict[str, Probabilities]:
    """Both models' probabilities, after the whole network has shown that it is the one the cache belongs to."""
    to_check = sorted(photographs, key=lambda photograph: photograph.sha256)[:checked]  # any, but always the same
    from_cache = predict_all(networks.top, _cached(to_check, classes, "boundary"), name="check")
    whole_file = paths.artifact(TUNED, FILES[TUNED])
    refuse_disagreement(to_check, _directly(networks.whole, to_check, recipe), from_cache, whole_file)
    return {
        HEAD: predict_all(networks.head, _cached(photographs, classes, "pooled"), name=HEAD),
        TUNED: predict_all(networks.top, _cached(photographs, classes, "boundary"), name=TUNED),
    }


def _pictures(
    top: keras.Model,
    photographs: Sequence[manifest.Entry],
    predicted: Probabilities,
    numbers: Sequence[int],
    *,
    classes: Sequence[str],
    resizing: decoding.Resizing,
) -> list[report.Picture]:
    """Photographs by their numbers, with heat maps of what spoke for their likeliest class, from cached activations."""
    if not numbers:
        return []
    shown, probabilities = [photographs[number] for number in numbers], predicted[numbers]
    rows: NDArray[Any] = _cached(shown, classes, "boundary")[0][0]
    heats = heatmaps.grad_cam(top, rows, probabilities.argmax(axis=1).tolist())
    folder = paths.artifact("subsample")
    return [
        picture(*each, classes=classes, folder=folder, resizing=resizing)
        for each in zip(shown, probabilities, heats, strict=True)
    ]


def _directly(
    whole: keras.Model, photographs: Sequence[manifest.Entry], recipe: store.Recipe
) -> Iterator[Probabilities]:
    for photograph in photographs:
        image = decoding.read_photo(paths.artifact("subsample", photograph.path), sha256=photograph.sha256)
        pixels = decoding.resize(image, size=recipe["image_size"], resizing=recipe["resizing"])
        yield saving.predict(whole, pixels[np.newaxis])
