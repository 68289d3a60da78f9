"""Summary: a run in tables and pictures, as Prefect's pages show them."""

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

_GREY = "#808080"  # readable on white and on black


def stages(outcomes: Mapping[str, Outcome]) -> list[Row]:
    """A row a stage: what came of it, in how many seconds, and how many of its rows were there before."""
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
    """How many stages came to what, as in "2 ran, 6 unchanged"."""
    names = [outcome.name.lower() for outcome in outcomes]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def scores(differences: Iterable[Difference]) -> list[Row]:
    """A row a score of the evaluation, beside what it was."""
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
    """A row a param that is not what it was."""
    return [
        {"param": difference.name, "now": str(difference.now), "before": str(difference.before)}
        for difference in differences
    ]


def learning_curves() -> str:
    """The learning curves of both trainings as Markdown that holds its picture; empty where there are none yet."""
    try:
        rows = json.loads(paths.artifact("evaluate", "plots", "learning_curves.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    drawing = figures.learning_curves([history.CurvePoint(**row) for row in rows]).replace("currentColor", _GREY)
    picture = base64.b64encode(drawing.encode()).decode()
    return f"![Loss and accuracy of each epoch](data:image/svg+xml;base64,{picture})"


def results() -> str:
    """Where report, model and scores lie, as Markdown with links for a browser on the same machine."""
    found = {
        "Report": paths.artifact("evaluate", "report.html"),
        "Model": paths.artifact("fine_tune", "model.keras"),
        "Scores": paths.artifact("evaluate", "metrics.json"),
    }
    places = {name: path.resolve() for name, path in found.items() if path.exists()}
    return "\n".join(f"- {name}: [{place}]({place.as_uri()})" for name, place in places.items())


def _change(difference: Difference) -> str:
    numbers = (difference.before, difference.now)
    if not all(isinstance(number, int | float) for number in numbers):
        return ""
    return f"{difference.now - difference.before:+.4f}"
