"""Report: the results of an evaluation as one self-contained HTML page."""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from transfer.evaluation import figures, heatmaps, learning_curve_figure, names
from transfer.evaluation.answer_rates import Answers
from transfer.evaluation.diagnosis import Diagnosis, verdict_text
from transfer.evaluation.learning_curve import Outlook
from transfer.evaluation.scores import Comparison, Evaluation
from transfer.evaluation.suspects import Suspect
from transfer.images import decoding, manifest
from transfer.images.manifest import Rejected
from transfer.training.history import CurvePoint

THUMBNAIL = 240  # pixels of the longer edge: larger than on the page, for high-resolution screens
LISTED = 8  # classes named in a heading
EXAMPLES = 3  # rejected photographs shown for each reason
_QUALITY = 80  # of JPEG


class Figure(NamedTuple):
    """A figure: its heading, a text alternative, the SVG and a caption."""

    heading: str
    alternative: str
    svg: str
    caption: str


class Choice(NamedTuple):
    """A class and its predicted probability."""

    class_name: str
    probability: float


class Picture(NamedTuple):
    """A photograph with its true class, its two most probable classes, and its thumbnail and heat map as data URIs.

    `source` is the file that the user knows; empty if the photographs are not the user's.
    """

    path: str
    source: str
    class_name: str
    choices: Sequence[Choice]
    thumbnail: str
    heat: str


class SuspectPicture(NamedTuple):
    """A photograph whose class may be wrong, as `Picture`, with its split and the suggested class."""

    path: str
    source: str
    split: str
    class_name: str
    suggested: Choice
    thumbnail: str


class Reason(NamedTuple):
    """A reason for rejection, the number of candidates rejected for it, and some of them."""

    name: str
    candidates: int
    examples: Sequence[Rejected]


class Report(NamedTuple):
    """The content of the page; evaluations and diagnoses by the stage that trained the network, the final one last."""

    classes: Sequence[str]
    photographs: Mapping[str, Mapping[str, int]]  # counts by split and class; the last split is "all"
    reasons: Sequence[Reason]
    confidence: float
    evaluations: Mapping[str, Evaluation]
    comparison: Comparison
    diagnoses: Mapping[str, Diagnosis]
    learning_curves: Figure
    learning_curve: Figure | None  # by the number of photographs; None if there are too few
    forecast: Sequence[str]  # what more photographs are likely to bring
    figures: Sequence[Figure]
    errors: Sequence[Picture]
    uncertain: Sequence[Picture]
    suspects: Sequence[SuspectPicture]  # the first of them
    suspected: int  # how many there are
    answers: Answers | None
    params: Mapping[str, object]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]


def render(report: Report) -> str:
    """Return the page as HTML, without scripts and external resources."""
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
        "network": names.network,
        "training_run": names.training_run,
        "percent": percent,
        "verdict": verdict_text,
        "yaml": yaml,
    }
    return environment.get_template("report.html.jinja").render(report._asdict(), listed=LISTED)


def learning_curves(epochs: Sequence[CurvePoint]) -> Figure:
    """Return the learning curves of all training runs, beside each other."""
    runs = {name: list(members) for name, members in groupby(epochs, key=lambda epoch: epoch.phase)}
    *_, (last, members) = runs.items()
    caption = ["Dots: the epoch that each training run kept."]
    if any(epoch.over_fits for epoch in epochs):
        caption.append("Shaded: epochs that over-fit.")
    if not any(epoch.best for epoch in members):
        run = names.training_run(last)
        caption.append(f"No epoch of {run} improved on the network it started from.")
    return Figure(
        "Learning curves",
        "Loss and accuracy by epoch, on the training and on the validation split",
        figures.learning_curves(epochs),
        " ".join(caption),
    )


def learning_curve(outlook: Outlook | None) -> Figure | None:
    """Return the learning curve by the number of photographs, if there is one."""
    if outlook is None:
        return None
    return Figure(
        "More photographs",
        "Log loss of linear probes by the number of photographs that they were trained on, and its continuation",
        learning_curve_figure.draw(outlook),
        "Dotted: the present number of training photographs, and twice as many. Shaded: the interval.",
    )


def roc(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Return the ROC curves of all networks, by the stages that trained them."""
    named = names.by_network(evaluations)
    areas = ", ".join(f"{name} {evaluation.scores.roc_auc:.4f}" for name, evaluation in named.items())
    multiclass = any(len(evaluation.classes) > 2 for evaluation in named.values())
    return Figure(
        "ROC",
        f"True over false positive rate of each network; areas: {areas}",
        figures.roc({name: evaluation.roc for name, evaluation in named.items()}),
        f"{'Mean over classes, each against all others. ' if multiclass else ''}Areas: {areas}. Dotted: chance level.",
    )


def reliability(evaluations: Mapping[str, Evaluation], temperature: float = 1.0) -> Figure:
    """Return the reliability diagrams of all networks, by the stages that trained them.

    Args:
        evaluations: the final network's last.
        temperature: of the final network.
    """
    caption = (
        "Above the dotted line a network is under-confident, below it over-confident. Larger dots: more photographs."
    )
    bins = names.by_network({stage: evaluation.bins for stage, evaluation in evaluations.items()})
    if any(group.photographs < figures.FEW for groups in bins.values() for group in groups):
        caption += f" Grey: fewer than {figures.FEW} photographs, too few to conclude anything."
    if temperature != 1:
        *_, last = bins
        caption += f" The {last} network's log odds are divided by the temperature {temperature:.3g}."
    return Figure("Reliability", "Accuracy over confidence of each network", figures.reliability(bins), caption)


def picture(
    photograph: manifest.Entry,
    probabilities: NDArray[np.float64],
    heat: heatmaps.HeatMap,
    *,
    classes: Sequence[str],
    folder: Path,
    resizing: decoding.Resizing,
) -> Picture:
    """Read a photograph and return it with its prediction and heat map.

    Args:
        photograph: its entry in the manifest.
        probabilities: predicted probabilities, shape (classes,).
        heat: heat map for the most probable class, as `heatmaps.grad_cam` returns it.
        classes: class names, in the order of their numbers.
        folder: the folder that `photograph.path` is relative to.
        resizing: how the photograph was resized to the network's input.

    Raises:
        DataError: the file differs from the manifest's sha256.
    """
    small = thumbnail(decoding.read_photo(folder / photograph.path, sha256=photograph.sha256))
    most_probable = np.argsort(-probabilities, kind="stable")[:2]
    return Picture(
        path=photograph.path,
        source=photograph.source,
        class_name=photograph.class_name,
        choices=[Choice(classes[number], float(probabilities[number])) for number in most_probable],
        thumbnail=data_uri(small),
        heat=data_uri(heatmaps.overlay(small, heat, resizing=resizing)),
    )


def suspect_picture(suspect: Suspect, folder: Path) -> SuspectPicture:
    """Read a photograph whose class may be wrong from a folder, and return it as the report shows it.

    Raises:
        DataError: the file differs from the manifest's sha256.
    """
    photograph = suspect.photograph
    small = thumbnail(decoding.read_photo(folder / photograph.path, sha256=photograph.sha256))
    return SuspectPicture(
        path=photograph.path,
        source=photograph.source,
        split=photograph.split,
        class_name=photograph.class_name,
        suggested=Choice(suspect.suggested, suspect.probability),
        thumbnail=data_uri(small),
    )


def percent(fraction: float) -> str:
    """Format a fraction as a percentage: 0.985 as 98.5 %."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def yaml(value: object) -> str:
    """Format a parameter's value as in params.yaml: true, null, [256]."""
    return value if isinstance(value, str) else json.dumps(value)


def alternatives(names: Sequence[str]) -> str:
    """Join names as in "cat, dog or rabbit"; if there are more than `LISTED`, return their number."""
    if len(names) > LISTED:
        return f"{len(names)} classes"
    *first, last = names
    return f"{', '.join(first)} or {last}"


def by_reason(rejected: Iterable[Rejected]) -> list[Reason]:
    """Group rejections by reason, the most frequent first, each with its first `EXAMPLES`."""
    groups: defaultdict[str, list[Rejected]] = defaultdict(list)
    for rejection in rejected:
        groups[rejection.reason].append(rejection)
    most_frequent = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Reason(name, len(group), group[:EXAMPLES]) for name, group in most_frequent]


def thumbnail(photograph: Image.Image) -> Image.Image:
    """Return a copy of a photograph, reduced to at most `THUMBNAIL` pixels on the longer edge."""
    small = photograph.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a data URI, as JPEG."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
