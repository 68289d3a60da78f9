"""Compare all models on the test split: accuracy against the time of training, as a table and a figure."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from tabulate import tabulate

from baselines import dataset, models, parameters
from transfer.evaluation import figures, scores
from transfer.evaluation.scores import Labels, Probabilities
from transfer.images import manifest
from transfer.network import saving
from transfer.network.card import Card, read_card, verified_card
from transfer.runtime import files, params, paths
from transfer.runtime.errors import DataError
from transfer.training.history import read_history

log = logging.getLogger(__name__)

STAGE = "compare"
BATCH_SIZE = 32
HINT = "Run `dvc repro baselines/dvc.yaml`."
PRETRAINED = ("train_head", "fine_tune")  # the stages of the main pipeline that train, in the order they run in
TITLES = {
    "logistic_regression": "logistic regression",
    "mlp": "MLP",
    "cnn": "CNN",
    "cnn_augmented": "CNN, augmented",
    "cnn_regularized": "CNN, augmented, regularized",
    "plain": "plain deep net",
    "residual": "residual net",
    "train_head": "VGG16, head",
    "fine_tune": "VGG16, fine-tuned",
}
FAMILIES = (  # models that share a colour and a marker in the figure
    ("logistic_regression", "mlp"),
    ("cnn", "cnn_augmented", "cnn_regularized"),
    ("plain", "residual"),
    PRETRAINED,
)

# The figure stands in no page whose colours it could take, so it follows the colour scheme that the reader prefers.
_COLOUR_SCHEMES = (
    "<style>svg { color: #1f2328; background: #ffffff }"
    " @media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117 } }</style>"
)


class Params(params.Section):
    """The settings of the scores."""

    confidence: float = Field(gt=0, lt=1, description="of the intervals")


class Result(NamedTuple):
    """The cost of a model and its scores on the test split.

    `features` and `training` are seconds: of extracting VGG16's features, and of all epochs.
    """

    weights: int
    epochs: int
    features: float
    training: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    log_loss: float

    @property
    def seconds(self) -> float:
        """The time until the network is trained, with its features."""
        return self.features + self.training


def result_from_scratch(name: str, photographs: Sequence[manifest.Entry], *, confidence: float) -> Result:
    """Score a model that the stage `train` trained.

    Args:
        name: name of the model.
        photographs: the test split.
        confidence: of the interval around the accuracy, between 0 and 1.
    """
    folder = paths.artifact("baselines", "train", name)
    card, network = verified_card(folder / "model.keras", hint=HINT), saving.load(folder / "model.keras")
    images = dataset.read_images(
        paths.artifact("subsample"),
        photographs,
        size=card.image_size,
        resizing=card.resizing,
        name=f"{STAGE}, {name}",
    )
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
    probabilities: Probabilities = np.concatenate([saving.predict(network, batch) for batch in batches])
    labels: Labels = np.array([card.classes.index(photograph.class_name) for photograph in photographs])
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = scores.wilson_interval(correct, len(labels), confidence=confidence)
    history = read_history(folder / "history.csv")
    return Result(
        weights=network.count_params(),
        epochs=len(history),
        features=0.0,
        training=_seconds(history),
        accuracy=correct / len(labels),
        accuracy_low=low,
        accuracy_high=high,
        log_loss=scores.log_loss(labels, probabilities),
    )


def pretrained_results(photographs: Sequence[manifest.Entry], *, confidence: float) -> dict[str, Result]:
    """Return the results of the main pipeline's two networks, from the files that its stages wrote.

    Both networks cost the features of all training photographs, in every view, and of all validation photographs.
    The fine-tuned network also costs the training of the head that it starts from.

    Args:
        photographs: the manifest, with splits.
        confidence: of the interval around the accuracy, between 0 and 1.
    """
    metrics = _read_json(paths.artifact("evaluate", "metrics.json"))
    total = metrics["test_photographs"]
    weights = saving.load(paths.artifact("fine_tune", "model.keras")).count_params()
    features = _seconds_of_features(photographs)
    results, training = {}, 0.0
    for stage in PRETRAINED:
        history = read_history(paths.artifact(stage, "history.csv"))
        training += _seconds(history)
        accuracy = metrics[stage]["accuracy"]
        low, high = scores.wilson_interval(round(accuracy * total), total, confidence=confidence)
        results[stage] = Result(
            weights=weights,
            epochs=len(history),
            features=features,
            training=training,
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            log_loss=metrics[stage]["log_loss"],
        )
    return results


def _seconds_of_features(photographs: Sequence[manifest.Entry]) -> float:
    """Return the measured seconds per row times the rows that the main pipeline needed."""
    rate = _read_json(paths.artifact("baselines", "measure_extraction", "metrics.json"))["seconds_per_row"]
    card = _card(paths.artifact("fine_tune"))
    splits = [photograph.split for photograph in photographs]
    rows = splits.count("train") * len(card.trained_on["features"]) + splits.count("validation") * (1 + card.mirror)
    return float(rows * rate)


def check_provenance(cards: Mapping[str, Card], photographs: str) -> None:
    """Check that all models were trained on one split, because others may have trained on its test photographs.

    Args:
        cards: the `model.json` of each model, by the model's name.
        photographs: the sha256 of the manifest with the splits.

    Raises:
        DataError: a model was trained on another split; the message names it.
    """
    others = [name for name, card in cards.items() if card.trained_on.get("photographs") != photographs]
    if others:
        raise DataError(
            "All models must be trained on the split that they are compared on. "
            f"Received: another split for {', '.join(others)}. {HINT}"
        )


def table(results: Mapping[str, Result], *, confidence: float) -> str:
    """Return the results as a Markdown table, one line per model, aligned for a terminal."""
    interval = f"{100 * confidence:g} % interval"
    header = ["model", "weights", "epochs", "features, s", "training, s", "accuracy", interval, "log loss"]
    rows = [
        [
            TITLES[name],
            f"{result.weights:,}",
            f"{result.epochs}",
            f"{result.features:,.0f}",
            f"{result.training:,.0f}",
            f"{100 * result.accuracy:.1f} %",
            f"{100 * result.accuracy_low:.1f} to {100 * result.accuracy_high:.1f} %",
            f"{result.log_loss:.3f}",
        ]
        for name, result in results.items()
    ]
    alignment = ["left", *["right"] * (len(header) - 1)]
    return tabulate(rows, header, tablefmt="pipe", colalign=alignment, disable_numparse=True) + "\n"


def figure(results: Mapping[str, Result], *, photographs: int, confidence: float) -> str:
    """Return accuracy against time as an SVG file of its own, in a light and a dark colour scheme.

    Args:
        results: by the model's name.
        photographs: size of the test split.
        confidence: of the intervals, between 0 and 1.
    """
    families = {name: number for number, family in enumerate(FAMILIES) for name in family}
    places = [
        figures.ModelScore(
            TITLES[name],
            families[name],
            result.seconds,
            result.accuracy,
            result.accuracy_low,
            result.accuracy_high,
        )
        for name, result in results.items()
    ]
    svg = figures.accuracy_against_time(
        places,
        accuracy=f"accuracy on {photographs:,} test photographs, {100 * confidence:g} % interval",
        time="seconds to the trained network, features included",
    )
    start_of_content = svg.index(">") + 1
    return f"{svg[:start_of_content]}{_COLOUR_SCHEMES}{svg[start_of_content:]}"


def main() -> None:
    """Write artifacts/baselines/compare/: metrics.json, table.md and figure.svg."""
    confidence = parameters.load(STAGE, Params).confidence
    manifest_file = paths.artifact("split", "manifest.csv")
    photographs = manifest.read(manifest_file)
    cards = {name: _card(paths.artifact("baselines", "train", name)) for name in models.FROM_SCRATCH}
    cards |= {stage: _card(paths.artifact(stage)) for stage in PRETRAINED}
    check_provenance(cards, files.sha256(manifest_file))

    test = [photograph for photograph in photographs if photograph.split == "test"]
    results = {name: result_from_scratch(name, test, confidence=confidence) for name in models.FROM_SCRATCH}
    results |= pretrained_results(photographs, confidence=confidence)
    svg = figure(results, photographs=len(test), confidence=confidence)

    folder = paths.artifact("baselines", STAGE)
    files.write_json(folder / "metrics.json", {name: result._asdict() for name, result in results.items()})
    files.write_text(folder / "table.md", table(results, confidence=confidence))
    files.write_text(folder / "figure.svg", svg)
    log.info("Table:  %s\nFigure: %s", *map(paths.displayed, (folder / "table.md", folder / "figure.svg")))


def _card(folder: Path) -> Card:
    return read_card(folder / "model.json", hint=HINT)


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _seconds(history: Sequence[Mapping[str, float]]) -> float:
    return sum(epoch["seconds"] for epoch in history)
