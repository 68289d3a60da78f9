"""Report: what an evaluation found, on one page that needs nothing besides itself."""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from transfer.evaluation import figures
from transfer.evaluation.diagnosis import Diagnosis, in_words
from transfer.evaluation.scores import Comparison, Findings
from transfer.images.manifest import Rejected
from transfer.training.history import CurvePoint

THUMBNAIL = 240  # pixels of the longer edge: more than a page shows, for fine screens
LISTED = 8  # classes named in a heading
EXAMPLES = 3  # of rejected photographs, for each reason
_QUALITY = 80  # of JPEG


class Figure(NamedTuple):
    """A drawing: its heading, the words for those who cannot see it, SVG, and what to know when looking at it."""

    heading: str
    alternative: str
    svg: str
    caption: str


class Choice(NamedTuple):
    """A class, and how probable a model holds it."""

    class_name: str
    probability: float


class Picture(NamedTuple):
    """A photograph, the two classes a model holds likeliest, and what in the photograph spoke for the first of them."""

    path: str
    class_name: str
    choices: Sequence[Choice]
    thumbnail: str
    heat: str


class Reason(NamedTuple):
    """Why candidates were not taken: how many, and some of them."""

    name: str
    candidates: int
    examples: Sequence[Rejected]


class Report(NamedTuple):
    """Everything on the page; findings and diagnoses of each model by its stage, the final model last."""

    classes: Sequence[str]
    photographs: Mapping[str, Mapping[str, int]]  # by split, the last being all, and class
    reasons: Sequence[Reason]
    confidence: float
    findings: Mapping[str, Findings]
    comparison: Comparison
    diagnoses: Mapping[str, Diagnosis]
    learning_curves: Figure
    figures: Sequence[Figure]
    mistakes: Sequence[Picture]
    uncertain: Sequence[Picture]
    params: Mapping[str, object]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]


def render(report: Report) -> str:
    """The page as HTML, without scripts and without anything to be fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "alternatives": alternatives,
        "markup": Markup,
        "percent": percent,
        "verdict": in_words,
        "yaml": yaml,
    }
    return environment.get_template("report.html.jinja").render(report._asdict())


def learning_curves(epochs: Sequence[CurvePoint]) -> Figure:
    """Losses and accuracies of all trainings, end to end."""
    phases = {name: list(members) for name, members in groupby(epochs, key=lambda epoch: epoch.phase)}
    *_, (last, members) = phases.items()
    caption = [
        "Dots: the epoch each training kept.",
        *(["Shaded: epochs that over-fit."] if any(epoch.over_fits for epoch in epochs) else []),
        *([f"Epochs count on: the first of {last} is {members[0].epoch}."] if len(phases) > 1 else []),
        *([] if any(epoch.best for epoch in members) else [f"No epoch of {last} was better than what it began with."]),
    ]
    return Figure(
        "Learning curves",
        "Loss and accuracy by epoch, on the training and on the validation split",
        figures.learning_curves(epochs),
        " ".join(caption),
    )


def roc(findings: Mapping[str, Findings]) -> Figure:
    """The ROC curves of all models."""
    areas = ", ".join(f"{name} {found.scores.roc_auc:.4f}" for name, found in findings.items())
    of_many = any(len(found.classes) > 2 for found in findings.values())
    return Figure(
        "ROC",
        f"True over false positive rate of each model; areas: {areas}",
        figures.roc({name: found.roc for name, found in findings.items()}),
        f"{'Mean over classes, each against all others. ' if of_many else ''}Areas: {areas}. Dotted: guessing.",
    )


def reliability(findings: Mapping[str, Findings]) -> Figure:
    """How far the confidence of all models can be relied on."""
    return Figure(
        "Reliability",
        "Accuracy over confidence of each model",
        figures.reliability({name: found.bins for name, found in findings.items()}),
        "Above the dotted line a model is better than it thinks, below it worse; larger dots, more photographs.",
    )


def percent(fraction: float) -> str:
    """A fraction as people read it: 0.985 is 98.5 %."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def yaml(value: object) -> str:
    """A param's value as params.yaml may have it: true, null, [256]."""
    return value if isinstance(value, str) else json.dumps(value)


def alternatives(names: Sequence[str]) -> str:
    """Names as a choice, as in "circle, square or star"; more than `LISTED` are counted."""
    if len(names) > LISTED:
        return f"{len(names)} classes"
    *first, last = names
    return f"{', '.join(first)} or {last}"


def by_reason(rejected: Iterable[Rejected]) -> list[Reason]:
    """The reasons for which candidates were not taken, the commonest first, each with its first `EXAMPLES`."""
    groups: defaultdict[str, list[Rejected]] = defaultdict(list)
    for one in rejected:
        groups[one.reason].append(one)
    commonest = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Reason(name, len(group), group[:EXAMPLES]) for name, group in commonest]


def thumbnail(photograph: Image.Image) -> Image.Image:
    """A photograph, smaller."""
    small = photograph.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def data_uri(picture: Image.Image) -> str:
    """A picture as the address of itself, a JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def flat(params: Mapping[str, object]) -> dict[str, object]:
    """Nested params by their dotted names, as in `fine_tune.training.epochs`."""
    entries: dict[str, object] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            entries |= {f"{name}.{below}": deeper for below, deeper in flat(value).items()}
        else:
            entries[name] = value
    return entries
