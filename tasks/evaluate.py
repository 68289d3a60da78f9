"""Evaluate the head and the fine-tuned network on the test split, and show what came of it."""

import csv
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from transfer import (
    curves,
    features,
    figures,
    manifest,
    models,
    outputs,
    params,
    paths,
    photos,
    progress,
    report,
    scores,
    stage,
    views,
)
from transfer.backend import keras
from transfer.errors import DataError, remake
from transfer.scores import Findings, Labels, Probabilities

log = logging.getLogger(__name__)

STAGE = "evaluate"
HEAD, TUNED = "train_head", "fine_tune"  # the stages whose networks are evaluated, in the order in which they run
FILES = {HEAD: "head.keras", TUNED: "model.keras"}
BATCH = 32  # photographs predicted at once
MISTAKES = 12  # shown in the report

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


class Trained(NamedTuple):
    """A network as its stage left it: the file, `model.json` and `history.csv`."""

    file: Path
    card: models.Card
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
            f"Received: {', '.join(names)}. {remake(TUNED)}"
        )
    index = names.index(boundary)
    return keras.Sequential([keras.Input(whole.layers[index].output.shape[1:]), *whole.layers[index + 1 :]])


def predict_all(network: keras.Model, batches: views.Views, *, name: str) -> Probabilities:
    """The probabilities of every photograph, a batch in memory at a time."""
    with progress.bar(total=len(batches), description=f"{STAGE} {name}", unit="batches") as bar:
        predicted = []
        for number in range(len(batches)):
            predicted.append(models.probabilities(network, batches[number][0].astype(np.float32)))
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
                f"One of the two is not what its stage made. {remake('extract_features', TUNED)}"
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


def metrics(findings: Mapping[str, Findings], comparison: scores.Comparison, *, photographs: int) -> dict[str, Any]:
    """The content of metrics.json."""
    by_model = {name: found.scores._asdict() for name, found in findings.items()}
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
    epochs: Sequence[curves.Epoch], findings: Mapping[str, Findings], classes: Sequence[str]
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


def surest_mistakes(
    photographs: Sequence[manifest.Entry],
    labels: Labels,
    predicted: Probabilities,
    classes: Sequence[str],
    folder: Path,
) -> list[report.Mistake]:
    """The photographs of which a model was surest that they show something else, the surest first."""
    confidence, choice = predicted.max(axis=1), predicted.argmax(axis=1)
    wrong = [index for index in np.argsort(-confidence, kind="stable") if choice[index] != labels[index]]
    return [
        report.Mistake(
            path=photographs[index].path,
            class_name=photographs[index].class_name,
            predicted=classes[choice[index]],
            confidence=float(confidence[index]),
            thumbnail=_thumbnail(photographs[index], folder),
        )
        for index in wrong[:MISTAKES]
    ]


def _thumbnail(photograph: manifest.Entry, folder: Path) -> str:
    return report.thumbnail(photos.read_kept(folder / photograph.path, sha256=photograph.sha256))


def report_figures(epochs: Sequence[curves.Epoch], findings: Mapping[str, Findings]) -> list[report.Figure]:
    """The report's figures."""
    areas = ", ".join(f"{name} {found.scores.roc_auc:.4f}" for name, found in findings.items())
    return [
        report.Figure(
            "Learning curves",
            "Loss and accuracy by epoch, on the training and on the validation split",
            figures.learning_curves(epochs),
            "Dots: the epoch each training kept. On the training split, photographs are augmented and dropout is on. "
            + ("" if any(epoch.best for epoch in epochs if epoch.phase == TUNED) else _NONE_BETTER),
        ),
        report.Figure(
            "ROC",
            f"True over false positive rate of each model; areas: {areas}",
            figures.roc({name: found.roc for name, found in findings.items()}),
            f"Areas: {areas}. Dotted: guessing.",
        ),
        report.Figure(
            "Reliability",
            "Accuracy over confidence of each model",
            figures.reliability({name: found.bins for name, found in findings.items()}),
            "Above the dotted line a model is better than it thinks, below it worse; larger dots, more photographs.",
        ),
    ]


_NONE_BETTER = "No epoch of fine-tuning was better than the head, whose model was kept."


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
    classes = manifest.classes(everything)
    photographs = sorted((entry for entry in everything if entry.split == "test"), key=lambda entry: entry.path)
    refuse_missing_classes(photographs, classes)
    recipes = features.read_recipes(paths.artifact("extract_features"))
    trained = {name: _trained(name) for name in FILES}
    inputs = models.inputs(paths.artifact("split", "manifest.csv"), recipes)
    refuse_strangers(HEAD, trained[HEAD], classes, inputs)
    refuse_strangers(TUNED, trained[TUNED], classes, {**inputs, "head": outputs.sha256(trained[HEAD].file)})

    predicted = _predicted(trained, photographs, classes, recipes[0], checked=settings.checked)
    labels = np.array([classes.index(photograph.class_name) for photograph in photographs])
    findings = {
        name: scores.find(labels, probabilities, confidence=settings.confidence, bins=settings.bins)
        for name, probabilities in predicted.items()
    }
    comparison = scores.compare(labels, predicted[HEAD], predicted[TUNED])
    epochs = curves.end_to_end(
        [curves.Phase(name, each.history, each.card.scores.get("best_epoch")) for name, each in trained.items()]
    )
    page = report.Report(
        photographs=len(photographs),
        classes=classes,
        confidence=settings.confidence,
        findings=findings,
        comparison=comparison,
        figures=report_figures(epochs, findings),
        mistakes=surest_mistakes(photographs, labels, predicted[TUNED], classes, paths.artifact("subsample")),
        params=report.flat(
            {
                "extract_features": _recipe_in_words(recipes),
                **{name: each.card.params for name, each in trained.items()},
            }
        ),
        hashes={
            "photographs": inputs["photographs"],
            "weights": recipes[0]["weights"],
            **{FILES[name]: outputs.sha256(each.file) for name, each in trained.items()},
        },
    )
    with outputs.whole_folder(paths.artifact(STAGE)) as folder:
        outputs.write_json(folder / "metrics.json", metrics(findings, comparison, photographs=len(photographs)))
        outputs.write_text(folder / "predictions.csv", predictions(photographs, predicted, classes))
        for name, rows in plots(epochs, findings, classes).items():
            outputs.write_json(folder / "plots" / f"{name}.json", rows)
        outputs.write_text(folder / "report.html", report.render(page))
    log.info("%s", table(findings, settings))
    log.info("%d test photographs; do the two differ? McNemar p = %.3g", len(photographs), comparison.p)
    for name, path in (
        ("report", _made("report.html")),
        ("model", trained[TUNED].file),
        ("scores", _made("metrics.json")),
    ):
        log.info("%-8s %s", name, path)


def _recipe_in_words(recipes: Sequence[features.Recipe]) -> dict[str, Any]:
    """Params of the features, with the augmentation of the views where there are any."""
    return {"views": len(recipes) - 1, **{name: value for name, value in recipes[-1].items() if name != "weights"}}


def _made(name: str) -> Path:
    return paths.artifact(STAGE, name)


def _trained(name: str) -> Trained:
    return Trained(
        paths.artifact(name, FILES[name]),
        models.read_card(paths.artifact(name, "model.json"), cure=remake(name)),
        curves.read_history(paths.artifact(name, "history.csv")),
    )


def _predicted(
    trained: Mapping[str, Trained],
    photographs: Sequence[manifest.Entry],
    classes: Sequence[str],
    recipe: features.Recipe,
    *,
    checked: int,
) -> dict[str, Probabilities]:
    """Both models' probabilities, after the whole network has shown that it is the one the cache belongs to."""
    head, whole = (models.load(each.file) for each in trained.values())
    top = above(whole, recipe["boundary"])

    def cached(entries: Sequence[manifest.Entry], part: views.Part) -> views.Views:
        return views.Views(paths.artifact("extract_features"), entries, classes=classes, part=part, batch_size=BATCH)

    to_check = sorted(photographs, key=lambda photograph: photograph.sha256)[:checked]  # any, but always the same
    from_cache = predict_all(top, cached(to_check, "boundary"), name="check")
    refuse_disagreement(to_check, _directly(whole, to_check, recipe), from_cache, trained[TUNED].file)
    return {
        HEAD: predict_all(head, cached(photographs, "pooled"), name=HEAD),
        TUNED: predict_all(top, cached(photographs, "boundary"), name=TUNED),
    }


def _directly(
    whole: keras.Model, photographs: Sequence[manifest.Entry], recipe: features.Recipe
) -> Iterator[Probabilities]:
    for photograph in photographs:
        image = photos.read_kept(paths.artifact("subsample", photograph.path), sha256=photograph.sha256)
        pixels = photos.resized(image, size=recipe["image_size"], resizing=recipe["resizing"])
        yield models.probabilities(whole, pixels[np.newaxis])


if __name__ == "__main__":
    stage.run(main)
