"""Report: what an evaluation found, on one page that needs nothing besides itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from PIL import Image

from transfer.scores import Comparison, Findings

THUMBNAIL = 240  # pixels of the longer edge: twice what a page shows, for fine screens
_QUALITY = 80  # of JPEG


class Figure(NamedTuple):
    """A drawing: its heading, the words for those who cannot see it, SVG, and what to know when looking at it."""

    heading: str
    alternative: str
    svg: str
    caption: str


class Mistake(NamedTuple):
    """A photograph whose class a model got wrong, and how sure it was."""

    path: str
    class_name: str
    predicted: str
    confidence: float
    thumbnail: str


class Report(NamedTuple):
    """Everything on the page; the findings of each model by its stage, the final model last."""

    photographs: int
    classes: Sequence[str]
    confidence: float
    findings: Mapping[str, Findings]
    comparison: Comparison
    figures: Sequence[Figure]
    mistakes: Sequence[Mistake]
    params: Mapping[str, object]
    hashes: Mapping[str, str]


def render(report: Report) -> str:
    """The page as HTML, without scripts and without anything to be fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "markup": Markup}
    return environment.get_template("report.html.jinja").render(report._asdict())


def percent(fraction: float) -> str:
    """A fraction as people read it: 0.985 is 98.5 %."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def thumbnail(photograph: Image.Image) -> str:
    """A small JPEG as a data URI."""
    small = photograph.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY)
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
