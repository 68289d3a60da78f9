"""Figures: drawings for a page, as SVG that takes the page's own colour and letters.

The same data give the same bytes: no date, no random names, no global state left behind.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from transfer.evaluation.scores import Bin, Point
from transfer.training.history import CurvePoint

FOREGROUND = "#010203"  # stands for the page's colour and is replaced by it
COLOURS = ("#2f7fd0", "#d9701a", "#3a9b57", "#b05fc0")  # readable on white and on black, and told apart without red
MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", "-.", ":")  # for those who see no colours, and for printers

_WIDTH = 4.6  # inches; narrow, so that letters stay readable on a phone
_SETTINGS: Any = {
    "axes.edgecolor": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": FOREGROUND,
    "font.size": 9.0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
    "text.color": FOREGROUND,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
}
# where a point's name may stand: horizontal and vertical distance in points, and how it is aligned there
_SIDES = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (5, 7, "left", "bottom"),
    (5, -7, "left", "top"),
    (-5, 7, "right", "bottom"),
    (-5, -7, "right", "top"),
)
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Place(NamedTuple):
    """A model in `accuracy_against_time`: seconds, accuracy with its interval; a family shares colour and marker."""

    name: str
    family: int
    seconds: float
    accuracy: float
    low: float
    high: float


def learning_curves(epochs: Sequence[CurvePoint]) -> str:
    """Loss above accuracy over all epochs.

    With a rule where another phase begins, a dot at the epoch it kept, and a shade behind those that over-fit.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, 4.8), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        watched = [epoch for epoch in epochs if epoch.split == "validation"]
        for axes, quantity in ((upper, "loss"), (lower, "accuracy")):
            _draw_curves(axes, epochs, quantity)
            _draw_phases(axes, watched, quantity)
            _draw_over_fitting(axes, watched)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        lower.yaxis.set_major_formatter(PercentFormatter(1.0))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_xlabel("epoch")
        return _svg(figure)


def _draw_curves(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for split, colour, style in zip(("train", "validation"), COLOURS, reversed(STYLES[:2]), strict=False):
        drawn = [(epoch.epoch, getattr(epoch, quantity)) for epoch in epochs if epoch.split == split]
        axes.plot(*zip(*drawn, strict=True), style, color=colour, label=split)
    axes.set_ylabel(quantity)


def _draw_phases(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for epoch in epochs:
        if epoch.begins and epoch.epoch > 1:
            place = epoch.epoch - 0.5
            side, gap = ("left", 3) if place < len(epochs) / 2 else ("right", -3)  # where there is more room
            axes.axvline(place, color=FOREGROUND, linewidth=0.8)
            if quantity == "loss":
                words = f"{epoch.phase} begins"
                axes.annotate(
                    words, (place, 1), (gap, -2), ("data", "axes fraction"), "offset points", ha=side, va="top"
                )
        if epoch.best:
            height = getattr(epoch, quantity)
            axes.plot(epoch.epoch, height, "o", color=COLOURS[1])
            axes.annotate(f"{epoch.epoch}", (epoch.epoch, height), (0, 6), textcoords="offset points", ha="center")


def _draw_over_fitting(axes: Axes, epochs: Sequence[CurvePoint]) -> None:
    label = "over-fits"
    for _, members in itertools.groupby((epoch for epoch in epochs if epoch.over_fits), key=lambda epoch: epoch.phase):
        numbers = [epoch.epoch for epoch in members]
        axes.axvspan(numbers[0] - 0.5, numbers[-1] + 0.5, color=COLOURS[3], alpha=0.2, linewidth=0, label=label)
        label = ""  # one entry in the legend


def roc(curves: Mapping[str, Sequence[Point]]) -> str:
    """The ROC curve of each model, and the diagonal that guessing gives."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _square()
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), STYLES[number], color=COLOURS[number], label=name)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right")
        return _svg(figure)


def reliability(bins: Mapping[str, Sequence[Bin]]) -> str:
    """How often each model is right, against how sure it is; the larger a dot, the more photographs."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _square()
        for number, (name, filled) in enumerate(bins.items()):
            total = sum(each.photographs for each in filled)
            places = [each.confidence for each in filled], [each.accuracy for each in filled]
            axes.plot(*places, STYLES[number], color=COLOURS[number], label=name)
            axes.scatter(*places, [12 + 120 * each.photographs / total for each in filled], COLOURS[number], alpha=0.6)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left")
        return _svg(figure)


def accuracy_against_time(places: Sequence[Place], *, accuracy: str, time: str) -> str:
    """How good each model is against how long it took, its name beside it.

    Args:
        places: the models.
        accuracy: what the upright axis says.
        time: what the level axis, which is logarithmic, says.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(1.6 * _WIDTH, 4.8), layout="constrained")
        axes = figure.subplots()
        for place in places:
            reach = [[place.accuracy - place.low], [place.high - place.accuracy]]
            colour, marker = COLOURS[place.family], MARKERS[place.family]
            axes.errorbar(place.seconds, place.accuracy, reach, fmt=marker, color=colour, elinewidth=0.8)
        axes.set_xscale("log")
        axes.margins(x=0.2)  # room for names on either side
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(time)
        axes.set_ylabel(accuracy)
        _name(axes, places)
        return _svg(figure)


def _name(axes: Axes, places: Sequence[Place]) -> None:
    """Write each name on that side of its point where it covers least of the other names, points and intervals."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr] # only now the axes know their place
    ends = [axes.transData.transform([(each.seconds, each.low), (each.seconds, each.high)]) for each in places]
    taken = [Bbox([(x - 3, low), (x + 3, high)]) for (x, low), (_, high) in ends]

    def covered(name: Annotation) -> float:
        extent = name.get_window_extent()
        shared = [Bbox.intersection(extent, other) for other in taken]
        inside = Bbox.intersection(extent, axes.bbox)
        outside = extent.width * extent.height - (inside.width * inside.height if inside else 0)
        return float(outside + sum(each.width * each.height for each in shared if each))

    for place in places:
        point = (place.seconds, place.accuracy)
        tried = [
            axes.annotate(
                place.name, point, (right, up), textcoords="offset points", ha=level, va=upright, in_layout=False
            )
            for right, up, level, upright in _SIDES
        ]
        best = min(tried, key=covered)
        taken.append(best.get_window_extent())
        for each in tried:
            if each is not best:
                each.remove()


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.plot([0, 1], [0, 1], ":", color=FOREGROUND, linewidth=0.8)
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(FOREGROUND, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", drawing)  # several drawings on a page would share these


def strip_plot(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Values of named things side by side: a small dot each, a large one at their mean.

    Args:
        panels: by what is shown, the values of each thing; all panels have the same things.
    """
    names = list(next(iter(panels.values())))
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(2 * _WIDTH, 0.9 + 0.32 * len(names)), layout="constrained")
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, values), colour in zip(drawn, panels.items(), COLOURS, strict=False):
            for place, name in enumerate(names):
                each = values[name]
                axes.plot(each, [place] * len(each), "o", color=colour, markersize=3, alpha=0.6)
                axes.plot(sum(each) / len(each), place, "o", color=colour, markersize=8)
            axes.set_xlabel(label)
            axes.grid(axis="y", linewidth=0.3)
            if "accuracy" in label:
                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        drawn[0].set_yticks(range(len(names)), names)
        drawn[0].invert_yaxis()
        return _svg(figure)


def heat_map(
    values: Sequence[Sequence[float]], down: tuple[str, Sequence[Any]], across: tuple[str, Sequence[Any]], label: str
) -> str:
    """Values of two things varied together: the lower, the darker, with the number in each place.

    Args:
        values: a row for each of the first thing's values.
        down: the first thing's name and values.
        across: the second thing's.
        label: what the values are.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.5 * len(values)), layout="constrained")
        axes = figure.subplots()
        flat = sorted(value for row in values for value in row)
        axes.imshow(values, cmap="Blues_r", alpha=0.75, aspect="auto")
        dark = flat[0] + 0.4 * (flat[-1] - flat[0])
        for (y, row), (x, _) in itertools.product(enumerate(values), enumerate(across[1])):
            ink = "white" if row[x] < dark else "black"
            axes.annotate(f"{row[x]:.4f}", (x, y), ha="center", va="center", color=ink)
        axes.set_yticks(range(len(down[1])), list(map(str, down[1])))
        axes.set_xticks(range(len(across[1])), list(map(str, across[1])))
        axes.set(ylabel=down[0].rpartition(".")[2], xlabel=across[0].rpartition(".")[2], title=label)
        return _svg(figure)
