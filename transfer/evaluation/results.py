"""Results: the contents of metrics.json, predictions.csv and plots/, and the table of scores for a terminal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from transfer.evaluation import names
from transfer.evaluation.scores import Comparison, Evaluation, Probabilities, Scores
from transfer.images import manifest
from transfer.runtime import files, spreadsheets
from transfer.training.history import CurvePoint

SPLITS = ("train", "validation", "test")


def metrics(
    evaluations: Mapping[str, Evaluation], comparison: Comparison, classes: Sequence[str], *, photographs: int
) -> dict[str, Any]:
    """Return the content of metrics.json.

    Args:
        evaluations: by the stage that trained the network.
        comparison: of both networks.
        classes: class names, in the order of their numbers.
        photographs: number of test photographs.

    Returns:
        The scores of each network; the precision of a class is None if it was never predicted.
    """
    by_stage = {stage: _scores(evaluation, classes) for stage, evaluation in evaluations.items()}
    return {**by_stage, "mcnemar_p": comparison.p, "test_photographs": photographs}


def _scores(evaluation: Evaluation, classes: Sequence[str]) -> dict[str, Any]:
    by_class = dict(zip(classes, evaluation.classes, strict=True))
    return {
        **evaluation.scores._asdict(),
        "recall": {name: scores.recall for name, scores in by_class.items()},
        "precision": {name: scores.precision for name, scores in by_class.items()},
    }


def predictions(
    photographs: Sequence[manifest.Entry], probabilities: Mapping[str, Probabilities], classes: Sequence[str]
) -> str:
    """Return the content of predictions.csv.

    Args:
        photographs: the test photographs, one a row.
        probabilities: of these photographs, by the stage that trained the network.
        classes: class names, in the order of their numbers.

    Returns:
        CSV with, for each network, the predicted class, its probability and the probabilities of all classes; with a
        column `source` if any photograph has one.
    """
    sources = ["source"] if any(photograph.source for photograph in photographs) else []
    of_network = ("class", "confidence", *(f"probability_{name}" for name in classes))
    of_networks = [f"{stage}_{column}" for stage in probabilities for column in of_network]
    columns = ["path", *sources, "sha256", "class", *of_networks]
    rows = [
        [
            spreadsheets.protect(photograph.path),
            *(spreadsheets.protect(photograph.source) for _ in sources),
            photograph.sha256,
            spreadsheets.protect(photograph.class_name),
            *(cell for predicted in probabilities.values() for cell in _cells(predicted[index], classes)),
        ]
        for index, photograph in enumerate(photographs)
    ]
    return files.csv_text(columns, rows)


def _cells(probabilities: Probabilities, classes: Sequence[str]) -> list[str]:
    best = int(probabilities.argmax())
    digits = [f"{probability:.9g}" for probability in probabilities]  # enough digits to identify a float32
    return [spreadsheets.protect(classes[best]), digits[best], *digits]


def plots(
    epochs: Sequence[CurvePoint], evaluations: Mapping[str, Evaluation], classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the data of each plot by its name, as the templates in .dvc/plots expect it."""
    named = names.by_network(evaluations)
    return {
        "learning_curves": [epoch._asdict() for epoch in epochs],
        "confusion": [
            {"model": name, **cell}
            for name, evaluation in named.items()
            for cell in _confusion_cells(evaluation, classes)
        ],
        "roc": [
            {"model": name, "order": order, **point._asdict()}
            for name, evaluation in named.items()
            for order, point in enumerate(evaluation.roc)
        ],
        "reliability": [
            {"model": name, **group._asdict()} for name, evaluation in named.items() for group in evaluation.bins
        ],
    }


def _confusion_cells(evaluation: Evaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"actual": actual, "predicted": predicted, "photographs": count, "of_actual": count / sum(row)}
        for actual, row in zip(classes, evaluation.confusion, strict=True)
        for predicted, count in zip(classes, row, strict=True)
    ]


def table(scores: Mapping[str, Scores], *, confidence: float) -> str:
    """Return the main scores of all networks as a text table.

    Args:
        scores: by the stage that trained the network.
        confidence: confidence level of the intervals, between 0 and 1.
    """
    interval = f"{100 * confidence:g} % interval"
    headers = ["", "accuracy", interval, "balanced", "log loss", "ROC AUC", "calibration error"]
    rows = [
        [
            names.network(stage),
            f"{100 * of_stage.accuracy:.1f} %",
            f"{100 * of_stage.accuracy_low:.1f} to {100 * of_stage.accuracy_high:.1f} %",
            f"{100 * of_stage.balanced_accuracy:.1f} %",
            f"{of_stage.log_loss:.4f}",
            f"{of_stage.roc_auc:.4f}",
            f"{of_stage.calibration_error:.4f}",
        ]
        for stage, of_stage in scores.items()
    ]
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, tablefmt="plain", colalign=alignment, disable_numparse=True)


def split_counts(photographs: Iterable[manifest.Entry], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the photographs of each class in each split, and in "all" splits together."""
    counts = Counter(
        (split, photograph.class_name) for photograph in photographs for split in (photograph.split, "all")
    )
    return {split: {name: counts[split, name] for name in classes} for split in (*SPLITS, "all")}
