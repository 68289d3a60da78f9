"""Comparison: the validation scores of a sweep's points as a text table, as CSV and as a picture."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

from flows.sweep_settings import Sweep
from transfer.evaluation import figures
from transfer.runtime import files

SCORES = ("val_loss", "val_accuracy", "best_epoch")

Scores = Mapping[str, Mapping[str, Sequence[float]]]  # by point and score, a value for each seed


class Result(NamedTuple):
    """The scores of a point with one seed."""

    point: str
    seed: int
    scores: Mapping[str, float]


def by_point(results: Sequence[Result]) -> dict[str, dict[str, list[float]]]:
    """Group the scores by point, in the sweep's order."""
    grouped: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for score, value in result.scores.items():
            grouped.setdefault(result.point, {}).setdefault(score, []).append(value)
    return grouped


def table(sweep: Sweep, scores: Scores) -> str:
    """Format the points as a text table, the lowest validation loss first; of several seeds the mean and the range."""
    varied = " ".join(name.rpartition(".")[2] for name in sweep.grid)
    several = len(sweep.seeds) > 1
    headers = [varied, "val_loss", *(["of seeds"] if several else []), "val_accuracy", "best epoch"]
    rows = []
    for point, values in sorted(scores.items(), key=lambda item: statistics.mean(item[1]["val_loss"])):
        losses = values["val_loss"]
        span = [f"{min(losses):.4f} to {max(losses):.4f}"] if several else []
        accuracy = f"{100 * statistics.mean(values['val_accuracy']):.1f} %"
        rows.append(
            [point, f"{statistics.mean(losses):.4f}", *span, accuracy, f"{statistics.mean(values['best_epoch']):.0f}"]
        )
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers=headers, tablefmt="plain", colalign=align, disable_numparse=True)


def csv_text(results: Sequence[Result]) -> str:
    """Format the results as CSV, a line for each point and seed."""
    rows = [[result.point, result.seed, *(result.scores[score] for score in SCORES)] for result in results]
    return files.csv_text(["point", "seed", *SCORES], rows)


def picture(sweep: Sweep, scores: Scores) -> str:
    """Draw the comparison as SVG: a heat map for a grid of two parameters, a strip plot otherwise."""
    losses = {name: values["val_loss"] for name, values in scores.items()}
    if len(sweep.grid) == 2:
        means = iter(map(statistics.mean, losses.values()))
        down, across = sweep.grid.items()
        return figures.heat_map(
            [[next(means) for _ in across[1]] for _ in down[1]], down, across, "validation log loss"
        )
    accuracies = {name: values["val_accuracy"] for name, values in scores.items()}
    varied = ", ".join(sweep.grid or dict.fromkeys(name for changes in sweep.points.values() for name in changes))
    panels = {"validation log loss": losses, "validation accuracy": accuracies}
    return figures.strip_plot(panels, varied=varied)
