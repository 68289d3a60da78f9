"""Summary: tables and pictures of a run for Prefect's pages."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.experiments import Difference
from flows.reproduction import Outcome
from transfer.evaluation import names
from transfer.runtime import paths
from transfer.training import history

Row = dict[str, Any]

_DIGITS = 4  # after the point, as in the report
_INK, _PAPER = "#1f2328", "#ffffff"  # of pictures, which are the same on light and dark pages
_METRICS = paths.artifact("evaluate", "metrics.json")
_MAIN = {"accuracy": "accuracy", "log_loss": "log loss", "roc_auc": "ROC AUC", "calibration_error": "calibration error"}
_RESULTS = {
    "Report": paths.artifact("evaluate", "report.html"),
    "Model": paths.artifact("fine_tune", "model.keras"),
    "Scores": _METRICS,
}


def stages(outcomes: Mapping[str, Outcome]) -> list[Row]:
    """Return a row for each stage: its outcome, its seconds, and how many of its rows were computed before."""
    return [
        {
            "stage": stage,
            "state": outcome.name,
            "seconds": round(outcome.seconds, 1),
            "rows reused": "" if outcome.rows is None else f"{outcome.reused} of {outcome.rows}",
            "why": outcome.message,
        }
        for stage, outcome in outcomes.items()
    ]


def counted(outcomes: Iterable[Outcome]) -> str:
    """Count the stages by outcome, as in "2 ran, 6 unchanged"."""
    states = [outcome.name.lower() for outcome in outcomes]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def scores(differences: Iterable[Difference]) -> list[Row]:
    """Return a row for each score of the evaluation, in the report's order, with its value before and the change."""
    order = list(_flattened(_metrics()))
    rows = [
        {
            "score": difference.name,
            "now": _rounded(difference.now),
            "before": _rounded(difference.before),
            "change": _change(difference),
        }
        for difference in differences
        if Path(difference.file) == _METRICS
    ]
    return sorted(rows, key=lambda row: order.index(row["score"]) if row["score"] in order else len(order))


def params(differences: Iterable[Difference]) -> list[Row]:
    """Return a row for each parameter of params.yaml that differs, with both values as text."""
    return [
        {"parameter": difference.name, "now": str(difference.now), "before": str(difference.before)}
        for difference in differences
        if Path(difference.file) == paths.PARAMS
    ]


def learning_curves() -> str:
    """Return Markdown with the learning curves of both training runs as an embedded picture; empty without any."""
    try:
        rows = json.loads(paths.artifact("evaluate", "plots", "learning_curves.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    from transfer.evaluation import figures  # noqa: PLC0415 - half of a flow's start, and most runs draw nothing

    drawing = figures.learning_curves([history.CurvePoint(**row) for row in rows]).replace("currentColor", _INK)
    drawing = drawing.replace("<svg ", f'<svg style="background: {_PAPER}" ', 1)
    picture = base64.b64encode(drawing.encode()).decode()
    return f"![Loss and accuracy of each epoch](data:image/svg+xml;base64,{picture})"


def results() -> str:
    """Return Markdown with the main scores of both networks, and the paths of report, model and scores."""
    metrics = _metrics()
    networks = names.by_network({stage: metrics[stage] for stage in names.NETWORKS if stage in metrics})
    lines = [
        _cells(["network", *_MAIN.values()]),
        _cells(["---", *["---:"] * len(_MAIN)]),
        *(_cells([name, *(_rounded(scores.get(score)) for score in _MAIN)]) for name, scores in networks.items()),
        "",
    ]
    existing = {name: path.resolve() for name, path in _RESULTS.items() if path.exists()}
    return "\n".join([*(lines if networks else []), *(f"- {name}: `{path}`" for name, path in existing.items())])


def _cells(values: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _metrics() -> dict[str, Any]:
    """Return the content of the evaluation's metrics.json; empty before the first evaluation."""
    try:
        content: dict[str, Any] = json.loads(_METRICS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def _flattened(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Return the dotted names of all metrics, as DVC forms them."""
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value


def _change(difference: Difference) -> str:
    numbers = (difference.before, difference.now)
    if not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"{difference.now - difference.before:+.4f}"
