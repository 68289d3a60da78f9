"""Summary: tables and pictures of a run for Prefect's pages."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.experiments import Difference
from flows.reproduction import Outcome
from transfer.evaluation import figures
from transfer.runtime import paths
from transfer.training import history

Row = dict[str, Any]

_GREY = "#808080"  # legible on white and on black


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
    names = [outcome.name.lower() for outcome in outcomes]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def scores(differences: Iterable[Difference]) -> list[Row]:
    """Return a row for each score of the evaluation, with its value before and the change."""
    return [
        {
            "score": difference.name,
            "now": difference.now,
            "before": difference.before,
            "change": _change(difference),
        }
        for difference in differences
        if Path(difference.file) == paths.artifact("evaluate", "metrics.json")
    ]


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
    drawing = figures.learning_curves([history.CurvePoint(**row) for row in rows]).replace("currentColor", _GREY)
    picture = base64.b64encode(drawing.encode()).decode()
    return f"![Loss and accuracy of each epoch](data:image/svg+xml;base64,{picture})"


def results() -> str:
    """Return Markdown with links to report, model and scores, for a browser on the same machine."""
    paths_by_name = {
        "Report": paths.artifact("evaluate", "report.html"),
        "Model": paths.artifact("fine_tune", "model.keras"),
        "Scores": paths.artifact("evaluate", "metrics.json"),
    }
    existing = {name: path.resolve() for name, path in paths_by_name.items() if path.exists()}
    return "\n".join(f"- {name}: [{path}]({path.as_uri()})" for name, path in existing.items())


def _change(difference: Difference) -> str:
    numbers = (difference.before, difference.now)
    if not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"{difference.now - difference.before:+.4f}"
