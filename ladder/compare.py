"""Compare the rungs: accuracy on the test split against what training took, as a table and a picture."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from ladder import pictures, rungs, upstream
from transfer.evaluation import figures, scores
from transfer.evaluation.scores import Labels
from transfer.images import manifest
from transfer.network import saving
from transfer.network.card import Card, read_card, verified_card
from transfer.runtime import files, params, paths, stage
from transfer.runtime.errors import DataError
from transfer.training.history import read_history

log = logging.getLogger(__name__)

STAGE = "compare"
BATCH = 32  # photographs predicted at once
CURE = "Run `dvc repro`, and then `dvc --cd ladder repro`."
ON_VGG16 = ("train_head", "fine_tune")  # the stages of the main pipeline that train, in the order in which they run
TITLES = {
    "logistic_regression": "logistic regression",
    "mlp": "MLP",
    "cnn": "CNN",
    "cnn_augmented": "CNN, augmented",
    "cnn_regularized": "CNN, augmented, regularized",
    "plain": "plain deep net",
    "residual": "residual twin",
    "train_head": "VGG16's features and a head",
    "fine_tune": "VGG16 fine-tuned",
}
FAMILIES = (  # which rungs look alike in the picture
    ("logistic_regression", "mlp"),
    ("cnn", "cnn_augmented", "cnn_regularized"),
    ("plain", "residual"),
    ON_VGG16,
)

# a picture that stands alone has no page to take its colours from; it follows the reader's own choice
_LIGHT_AND_DARK = (
    "<style>svg { color: #1f2328; background: #ffffff }"
    " @media (prefers-color-scheme: dark) { svg { color: #e6edf3; background: #0d1117 } }</style>"
)


class Params(params.Section):
    """How the scores are taken."""

    confidence: float = Field(gt=0, lt=1, description="of the intervals")


class Result(NamedTuple):
    """What a rung came to; `features` and `training` are seconds, accuracy and log loss those of the test split."""

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
        """All that had to be done until the network was there."""
        return self.features + self.training


def from_nothing(rung: str, photographs: Sequence[manifest.Entry], *, confidence: float) -> Result:
    """Score a rung that was trained here on the test split."""
    folder = paths.artifact("train", rung)
    card, network = verified_card(folder / "model.keras", hint=CURE), saving.load(folder / "model.keras")
    pixels = pictures.read(
        upstream.artifact("subsample"),
        photographs,
        size=card.image_size,
        resizing=card.resizing,
        name=f"{STAGE}, {rung}",
    )
    labels: Labels = np.array([card.classes.index(photograph.class_name) for photograph in photographs])
    batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    probabilities = np.concatenate([saving.predict(network, batch) for batch in batches])
    right = int((probabilities.argmax(axis=1) == labels).sum())
    low, high = scores.wilson_interval(right, len(labels), confidence=confidence)
    history = read_history(folder / "history.csv")
    return Result(
        weights=network.count_params(),
        epochs=len(history),
        features=0.0,
        training=_seconds(history),
        accuracy=right / len(labels),
        accuracy_low=low,
        accuracy_high=high,
        log_loss=scores.log_loss(labels, probabilities),
    )


def on_vgg16(everything: Sequence[manifest.Entry], *, confidence: float) -> dict[str, Result]:
    """What the main pipeline found of its two networks on the test split, and what they took.

    Each has cost the features of all training and validation photographs, views included; the fine-tuned network has
    also cost the training of the head that it began from.
    """
    found = json.loads(upstream.artifact("evaluate", "metrics.json").read_text(encoding="utf-8"))
    measured = json.loads(paths.artifact("measure_extraction", "metrics.json").read_text(encoding="utf-8"))
    weights = saving.load(upstream.artifact("fine_tune", "model.keras")).count_params()
    views = len(_card(upstream.artifact("fine_tune")).trained_on["features"])
    splits = [photograph.split for photograph in everything]
    rows = splits.count("train") * views + splits.count("validation")
    results, training = {}, 0.0
    for rung in ON_VGG16:
        history = read_history(upstream.artifact(rung, "history.csv"))
        training += _seconds(history)
        accuracy, photographs = found[rung]["accuracy"], found["test_photographs"]
        low, high = scores.wilson_interval(round(accuracy * photographs), photographs, confidence=confidence)
        results[rung] = Result(
            weights=weights,
            epochs=len(history),
            features=rows * measured["seconds_per_row"],
            training=training,
            accuracy=accuracy,
            accuracy_low=low,
            accuracy_high=high,
            log_loss=found[rung]["log_loss"],
        )
    return results


def refuse_strangers(cards: Mapping[str, Card], photographs: str) -> None:
    """Stop if a network was trained on another split: test photographs may have been among those it learned from.

    Args:
        cards: the `model.json` of each rung.
        photographs: the sha256 of the manifest with the splits.

    Raises:
        DataError: with the rungs that were.
    """
    strangers = [rung for rung, card in cards.items() if card.trained_on.get("photographs") != photographs]
    if strangers:
        raise DataError(
            f"All rungs must be trained on the split that they are compared on. Received: {', '.join(strangers)} "
            f"trained on another. {CURE}"
        )


def table(results: Mapping[str, Result], *, confidence: float) -> str:
    """The results in Markdown, a line a rung, aligned for a terminal."""
    interval = f"{100 * confidence:g} % interval"
    rows = [["rung", "weights", "epochs", "features, s", "training, s", "accuracy", interval, "log loss"]]
    rows += [
        [
            TITLES[rung],
            f"{each.weights:,}",
            f"{each.epochs}",
            f"{each.features:,.0f}",
            f"{each.training:,.0f}",
            f"{100 * each.accuracy:.1f} %",
            f"{100 * each.accuracy_low:.1f} to {100 * each.accuracy_high:.1f} %",
            f"{each.log_loss:.3f}",
        ]
        for rung, each in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = [
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in rows
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def picture(results: Mapping[str, Result], *, photographs: int, confidence: float) -> str:
    """Accuracy against time, as an SVG that can be looked at by itself."""
    families = {rung: number for number, family in enumerate(FAMILIES) for rung in family}
    drawing = figures.accuracy_against_time(
        [
            figures.Place(
                TITLES[rung],
                families[rung],
                each.seconds,
                each.accuracy,
                each.accuracy_low,
                each.accuracy_high,
            )
            for rung, each in results.items()
        ],
        accuracy=f"accuracy on {photographs:,} test photographs, {100 * confidence:g} % interval",
        time="seconds to the trained network, features included",
    )
    opening = drawing.index(">") + 1
    return f"{drawing[:opening]}{_LIGHT_AND_DARK}{drawing[opening:]}"


def main() -> None:
    """Fill artifacts/compare/: metrics.json, table.md and picture.svg."""
    settings = params.load(STAGE, Params)
    manifest_file = upstream.artifact("split", "manifest.csv")
    everything = manifest.read(manifest_file)
    cards = {rung: _card(paths.artifact("train", rung)) for rung in rungs.FROM_NOTHING}
    cards |= {rung: _card(upstream.artifact(rung)) for rung in ON_VGG16}
    refuse_strangers(cards, files.sha256(manifest_file))
    test = [photograph for photograph in everything if photograph.split == "test"]
    results = {rung: from_nothing(rung, test, confidence=settings.confidence) for rung in rungs.FROM_NOTHING}
    results |= on_vgg16(everything, confidence=settings.confidence)

    folder = paths.artifact(STAGE)
    in_words = table(results, confidence=settings.confidence)
    drawing = picture(results, photographs=len(test), confidence=settings.confidence)
    files.write_json(folder / "metrics.json", {rung: each._asdict() for rung, each in results.items()})
    files.write_text(folder / "table.md", in_words)
    files.write_text(folder / "picture.svg", drawing)
    log.info("%s", in_words)
    log.info("Table:   %s\nPicture: %s", folder / "table.md", folder / "picture.svg")


def _card(folder: Path) -> Card:
    return read_card(folder / "model.json", hint=CURE)


def _seconds(history: Sequence[Mapping[str, float]]) -> float:
    return sum(epoch["seconds"] for epoch in history)


if __name__ == "__main__":
    stage.run(main)
