"""Digit results: what networks made of digits, as scores, as a table, and as a picture of examples."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import stats
from tabulate import tabulate

from baselines.digits import Images, Labels, Placement

TITLES = {"scikit_learn": "scikit-learn", "mnist": "MNIST"}
NETWORKS = {"mlp": "MLP", "cnn": "CNN"}
CONDITIONS: dict[tuple[Placement, Placement], str] = {  # of training and of the test, from the easiest
    ("centred", "centred"): "trained and tested centred",
    ("centred", "moved"): "trained centred, tested moved",
    ("moved", "moved"): "trained and tested moved",
}

_EDGE = 96  # of a digit in the picture, pixels
_GAP = 10
_LINE = 18  # height of a line of text
_HEADING = 130  # width of the headings of rows
_PAPER, _INK, _GREY, _WRONG = "white", "#1f2328", "#8c959f", "#b3261e"


class Run(NamedTuple):
    """A training run, and its network's answers for the test digits centred and moved, in the order of `labels`."""

    digits: str
    network: str
    trained: Placement
    seed: int
    weights: int
    epochs: int
    answers: dict[Placement, Labels]
    labels: Labels

    def accuracy(self, tested: Placement) -> float:
        """Return the fraction of the test digits that the network recognizes."""
        return float(np.mean(self.answers[tested] == self.labels))


class Score(NamedTuple):
    """The mean accuracy of a network over the seeds, with its interval, and that of each seed.

    `trained` and `tested` are the placements of the digits; `weights` is the number of the network's weights.
    """

    digits: str
    network: str
    weights: int
    trained: Placement
    tested: Placement
    accuracy: float
    low: float
    high: float
    by_seed: list[float]


class Examples(NamedTuple):
    """A row of the picture: its heading in lines, images (digits, frame, frame, 1), labels, and answers by network."""

    heading: Sequence[str]
    images: Images
    labels: Labels
    answers: dict[str, Labels]


def sentence(run: Run) -> str:
    """Return a training run and its scores in words."""
    parts = [TITLES[run.digits], NETWORKS[run.network], f"trained {run.trained}", f"seed {run.seed}"]
    scores = [f"{100 * run.accuracy(tested):.1f} % of {tested} digits" for tested in run.answers]
    return f"{', '.join(parts)}: {' and '.join(scores)} recognized after {run.epochs} epochs"


def mean_interval(values: Sequence[float], *, confidence: float) -> tuple[float, float, float]:
    """Return the mean of accuracies and Student's interval for it, cut at 0 and 1.

    Args:
        values: at least two.
        confidence: between 0 and 1.
    """
    mean = math.fsum(values) / len(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def summarize(runs: Sequence[Run], *, confidence: float) -> list[Score]:
    """Return the scores of each set and network in each of the `CONDITIONS`, in this order."""
    scores = []
    for digits, network in dict.fromkeys((run.digits, run.network) for run in runs):
        own = [run for run in runs if (run.digits, run.network) == (digits, network)]
        for trained, tested in CONDITIONS:
            by_seed = [run.accuracy(tested) for run in own if run.trained == trained]
            mean, low, high = mean_interval(by_seed, confidence=confidence)
            scores.append(Score(digits, network, own[0].weights, trained, tested, mean, low, high, by_seed))
    return scores


def table(scores: Iterable[Score]) -> str:
    """Return the scores as a Markdown table, one line per set and network, aligned for a terminal."""
    lines: dict[tuple[str, str], list[str]] = {}
    for score in scores:
        line = lines.setdefault(
            (score.digits, score.network), [TITLES[score.digits], NETWORKS[score.network], f"{score.weights:,}"]
        )
        line.append(f"{100 * score.accuracy:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})")
    header = ["digits", "network", "weights", *CONDITIONS.values()]
    alignment = ["left", "left", *["right"] * (len(header) - 2)]
    return tabulate(lines.values(), header, tablefmt="pipe", colalign=alignment, disable_numparse=True) + "\n"


def one_of_each(labels: Labels) -> Labels:
    """Return the index of the first test digit of each class that occurs, from 0 to 9."""
    return np.unique(labels, return_index=True)[1]


def draw(rows: Sequence[Examples]) -> Image.Image:
    """Draw digits in rows, under each what every network takes it for; wrong answers are red and in a frame."""
    row_height = _EDGE + _LINE * len(rows[0].answers) + _GAP
    columns = max(len(row.labels) for row in rows)
    size = (_HEADING + columns * (_EDGE + _GAP), _GAP + len(rows) * row_height)
    sheet = Image.new("RGB", size, _PAPER)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, top=_GAP + number * row_height)
    return sheet


def _draw_row(sheet: Image.Image, row: Examples, *, top: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    pen.multiline_text((_GAP, top), "\n".join(row.heading), fill=_INK, font=font, spacing=4)
    for column, label in enumerate(row.labels):
        left = _HEADING + column * (_EDGE + _GAP)
        picture = Image.fromarray(255 - row.images[column, :, :, 0])
        sheet.paste(picture.resize((_EDGE, _EDGE), Image.Resampling.NEAREST), (left, top))
        pen.rectangle((left, top, left + _EDGE - 1, top + _EDGE - 1), outline=_GREY)
        for line, (network, answers) in enumerate(row.answers.items()):
            above, answer = top + _EDGE + line * _LINE, answers[column]
            pen.text((left + 4, above + 1), f"{network}: {answer}", fill=_INK if answer == label else _WRONG, font=font)
            if answer != label:
                pen.rectangle((left, above + 2, left + _EDGE - 1, above + _LINE - 1), outline=_WRONG)
