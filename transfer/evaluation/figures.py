"""Figures: plots as SVG that inherits the page's text colour and font.

The same data give the same bytes: the SVG has no date and no random ids, and Matplotlib's settings are restored.
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

FOREGROUND = "#010203"  # placeholder, replaced by `currentColor`
COLOURS = ("#2f7fd0", "#d9701a", "#3a9b57", "#b05fc0")  # readable on white and on black, and by colour-blind people
MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", "-.", ":")  # distinguish lines without colours, as in print

_WIDTH = 4.6  # inches; narrow, so that text stays readable on a phone
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
# candidate positions of a point's label: horizontal and vertical offset in points, and alignment
_LABEL_POSITIONS = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (5, 7, "left", "bottom"),
    (5, -7, "left", "top"),
    (-5, 7, "right", "bottom"),
    (-5, -7, "right", "top"),
)
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class Place(NamedTuple):
    """A model in `accuracy_against_time`: its seconds, and its accuracy with interval; a family shares one colour."""

    name: str
    family: int
    seconds: float
    accuracy: float
    low: float
    high: float


def learning_curves(epochs: Sequence[CurvePoint]) -> str:
    """Plot loss and, below it, accuracy by epoch.

    A vertical line marks the beginning of a phase, a dot the epoch it kept, and a shade the epochs that over-fit.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, 4.8), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        validation = [epoch for epoch in epochs if epoch.split == "validation"]
        for axes, quantity in ((upper, "loss"), (lower, "accuracy")):
            _draw_curves(axes, epochs, quantity)
            _draw_phases(axes, validation, quantity)
            _draw_over_fitting(axes, validation)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        lower.yaxis.set_major_formatter(PercentFormatter(1.0))
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_xlabel("epoch")
        return _svg(figure)


def _draw_curves(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for split, colour, style in zip(("train", "validation"), COLOURS, reversed(STYLES[:2]), strict=False):
        points = [(epoch.epoch, getattr(epoch, quantity)) for epoch in epochs if epoch.split == split]
        axes.plot(*zip(*points, strict=True), style, color=colour, label=split)
    axes.set_ylabel(quantity)


def _draw_phases(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for epoch in epochs:
        if epoch.begins and epoch.epoch > 1:
            start = epoch.epoch - 0.5
            side, gap = ("left", 3) if start < len(epochs) / 2 else ("right", -3)  # the side with more space
            axes.axvline(start, color=FOREGROUND, linewidth=0.8)
            if quantity == "loss":
                label = f"{epoch.phase} begins"
                axes.annotate(
                    label, (start, 1), (gap, -2), ("data", "axes fraction"), "offset points", ha=side, va="top"
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
        label = ""  # only the first shade gets an entry in the legend


def roc(curves: Mapping[str, Sequence[Point]]) -> str:
    """Plot the ROC curve of each model, and the diagonal of the chance level."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _square()
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), STYLES[number], color=COLOURS[number], label=name)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right")
        return _svg(figure)


def reliability(bins: Mapping[str, Sequence[Bin]]) -> str:
    """Plot accuracy against confidence (reliability diagram) of each model; larger dots stand for more photographs."""
    with mpl.rc_context(_SETTINGS):
        figure, axes = _square()
        for number, (name, groups) in enumerate(bins.items()):
            total = sum(group.photographs for group in groups)
            points = [group.confidence for group in groups], [group.accuracy for group in groups]
            sizes = [12 + 120 * group.photographs / total for group in groups]
            axes.plot(*points, STYLES[number], color=COLOURS[number], label=name)
            axes.scatter(*points, sizes, COLOURS[number], alpha=0.6)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left")
        return _svg(figure)


def accuracy_against_time(places: Sequence[Place], *, accuracy: str, time: str) -> str:
    """Plot the accuracy of each model against its time, with its name next to the point.

    Args:
        places: the models.
        accuracy: label of the vertical axis.
        time: label of the horizontal axis, which is logarithmic.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(1.6 * _WIDTH, 4.8), layout="constrained")
        axes = figure.subplots()
        for place in places:
            errors = [[place.accuracy - place.low], [place.high - place.accuracy]]
            colour, marker = COLOURS[place.family], MARKERS[place.family]
            axes.errorbar(place.seconds, place.accuracy, errors, fmt=marker, color=colour, elinewidth=0.8)
        axes.set_xscale("log")
        axes.margins(x=0.2)  # space for names on either side
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(time)
        axes.set_ylabel(accuracy)
        _label_points(axes, places)
        return _svg(figure)


def _label_points(axes: Axes, places: Sequence[Place]) -> None:
    """Write the name of each model where it overlaps other names, points and intervals least."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr] # only now the axes have pixel coordinates
    intervals = [
        axes.transData.transform([(place.seconds, place.low), (place.seconds, place.high)]) for place in places
    ]
    occupied = [Bbox([(x - 3, low), (x + 3, high)]) for (x, low), (_, high) in intervals]

    def overlap(name: Annotation) -> float:
        extent = name.get_window_extent()
        shared = [Bbox.intersection(extent, box) for box in occupied]
        inside = Bbox.intersection(extent, axes.bbox)
        outside = extent.width * extent.height - (inside.width * inside.height if inside else 0)
        return float(outside + sum(box.width * box.height for box in shared if box))

    for place in places:
        point = (place.seconds, place.accuracy)
        candidates = [
            axes.annotate(place.name, point, (x, y), textcoords="offset points", ha=ha, va=va, in_layout=False)
            for x, y, ha, va in _LABEL_POSITIONS
        ]
        best = min(candidates, key=overlap)
        occupied.append(best.get_window_extent())
        for candidate in candidates:
            if candidate is not best:
                candidate.remove()


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.plot([0, 1], [0, 1], ":", color=FOREGROUND, linewidth=0.8)
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(FOREGROUND, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", svg)  # ids must be unique on a page with several figures


def strip_plot(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw a strip plot: the values of each row as small dots, their mean as a large dot.

    Args:
        panels: for each panel, by the label of its axis, the values of each row by the row's name. All panels have the
            same rows.
    """
    names = list(next(iter(panels.values())))
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(2 * _WIDTH, 0.9 + 0.32 * len(names)), layout="constrained")
        row_of_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, values), colour in zip(row_of_axes, panels.items(), COLOURS, strict=False):
            for row, name in enumerate(names):
                axes.plot(values[name], [row] * len(values[name]), "o", color=colour, markersize=3, alpha=0.6)
                axes.plot(sum(values[name]) / len(values[name]), row, "o", color=colour, markersize=8)
            axes.set_xlabel(label)
            axes.grid(axis="y", linewidth=0.3)
            if "accuracy" in label:
                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        row_of_axes[0].set_yticks(range(len(names)), names)
        row_of_axes[0].invert_yaxis()
        return _svg(figure)


def heat_map(
    values: Sequence[Sequence[float]], down: tuple[str, Sequence[Any]], across: tuple[str, Sequence[Any]], label: str
) -> str:
    """Draw a heat map of values over two parameters: the lower the value, the darker its cell, which shows the number.

    Args:
        values: a row for each value of the first parameter, a column for each value of the second.
        down: dotted name and values of the first parameter.
        across: dotted name and values of the second parameter.
        label: title of the figure: the name of the values.
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
