"""Figures: plots as SVG that inherits the page's text colour and font.

The same data give the same bytes: the SVG has no date and no random ids, and Matplotlib's settings are restored.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox, BboxBase

from transfer.evaluation import names
from transfer.evaluation.scores import Bin, Point
from transfer.training.history import CurvePoint

FOREGROUND = "#010203"  # placeholder, replaced by `currentColor`
COLOURS = ("#2f7fd0", "#d9701a", "#3a9b57", "#b05fc0")  # readable on white and on black, and by colour-blind people
FEW = 5  # photographs; the accuracy of fewer says little
FEW_COLOUR = "#999999"
MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", "-.", ":")  # distinguish lines without colours, as in print

WIDTH = 4.6  # inches; narrow, so that text stays readable on a phone
SETTINGS: Any = {
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
_LABEL_POSITIONS = tuple(
    (x, y, "left" if x > 0 else "right" if x < 0 else "center", "bottom" if y > 0 else "top" if y < 0 else "center")
    for distance in (8, 14, 22)
    for x, y in ((1, 0), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (0, 1), (0, -1))
    for x, y in [(x * distance, y * distance)]
)
_MARKER = 6  # pixels from a marker's centre to its edge, with a margin
_NEARER = 100  # cost of a name that is nearer to another marker than to its own, in square pixels of overlap
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


class ModelScore(NamedTuple):
    """A model in `accuracy_against_time`: its seconds, and its accuracy with interval; a family shares one colour."""

    name: str
    family: int
    seconds: float
    accuracy: float
    low: float
    high: float


def learning_curves(epochs: Sequence[CurvePoint]) -> str:
    """Plot loss and, below it, accuracy by epoch, with a column for each training run, whose epochs count from 1.

    A dot marks the epoch that a run kept, and a shade the epochs that over-fit.
    """
    runs = {phase: list(points) for phase, points in itertools.groupby(epochs, key=lambda epoch: epoch.phase)}
    # a short run gets a quarter of the width of the others at least, so that its title fits
    lengths = [max(epoch.phase_epoch for epoch in points) for points in runs.values()]
    widths = [max(length, 0.45 * max(lengths)) for length in lengths]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
        grid = figure.subplots(2, len(runs), sharex="col", sharey="row", width_ratios=widths, squeeze=False)
        for column, (phase, points) in enumerate(runs.items()):
            upper, lower = grid[:, column]
            for axes, quantity in ((upper, "loss"), (lower, "accuracy")):
                _draw_curves(axes, points, quantity)
                _draw_kept(axes, points, quantity)
                _draw_over_fitting(axes, points)
            upper.set_title(names.training_run(phase), fontsize="medium")
            lower.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4 if len(runs) > 1 else "auto"))
            lower.set_xlim(0.5, lengths[column] + 0.5)
        for axes, quantity in zip(grid[:, 0], ("loss", "accuracy"), strict=True):
            axes.set_ylabel(quantity)
        grid[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
        figure.supxlabel("epoch", fontsize="medium")
        handles = {
            label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=3)
        return svg(figure)


def _draw_curves(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for split, colour, style in zip(("train", "validation"), COLOURS, reversed(STYLES[:2]), strict=False):
        points = [(epoch.phase_epoch, getattr(epoch, quantity)) for epoch in epochs if epoch.split == split]
        axes.plot(*zip(*points, strict=True), style, color=colour, label=split)


def _draw_kept(axes: Axes, epochs: Sequence[CurvePoint], quantity: str) -> None:
    for epoch in epochs:
        if epoch.best and epoch.split == "validation":
            axes.plot(epoch.phase_epoch, getattr(epoch, quantity), "o", color=COLOURS[1])


def _draw_over_fitting(axes: Axes, epochs: Sequence[CurvePoint]) -> None:
    numbers = [epoch.phase_epoch for epoch in epochs if epoch.over_fits]
    if numbers:
        axes.axvspan(
            min(numbers) - 0.5, max(numbers) + 0.5, color=COLOURS[3], alpha=0.2, linewidth=0, label="over-fits"
        )


def roc(curves: Mapping[str, Sequence[Point]]) -> str:
    """Plot the ROC curve of each model, and the diagonal of the chance level."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _square()
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*zip(*points, strict=True), STYLES[number], color=COLOURS[number], label=name)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right")
        return svg(figure)


def reliability(bins: Mapping[str, Sequence[Bin]]) -> str:
    """Plot accuracy against confidence (reliability diagram) of each model.

    Larger dots stand for more photographs. Bins with fewer than `FEW` photographs are grey dots without a line.
    """
    with mpl.rc_context(SETTINGS):
        figure, axes = _square()
        for number, (name, groups) in enumerate(bins.items()):
            total = sum(group.photographs for group in groups)
            many = [group for group in groups if group.photographs >= FEW]
            points = [group.confidence for group in many], [group.accuracy for group in many]
            axes.plot(*points, STYLES[number], color=COLOURS[number], label=name)
            for group in groups:
                colour, marker = COLOURS[number] if group in many else FEW_COLOUR, MARKERS[number]
                size = 12 + 120 * group.photographs / total
                axes.scatter(group.confidence, group.accuracy, size, colour, marker=marker, alpha=0.6)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left")
        return svg(figure)


def accuracy_against_time(models: Sequence[ModelScore], *, accuracy: str, time: str) -> str:
    """Plot the accuracy of each model against its time, with its name next to the point.

    Args:
        models: the models.
        accuracy: label of the vertical axis.
        time: label of the horizontal axis, which is logarithmic.
    """
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(1.6 * WIDTH, 4.8), layout="constrained")
        axes = figure.subplots()
        for model in models:
            errors = [[model.accuracy - model.low], [model.high - model.accuracy]]
            colour, marker = COLOURS[model.family], MARKERS[model.family]
            axes.errorbar(model.seconds, model.accuracy, errors, fmt=marker, color=colour, elinewidth=0.8)
        axes.set_xscale("log")
        axes.margins(x=0.35)  # space for names on either side
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(time)
        axes.set_ylabel(accuracy)
        _label_points(axes, models)
        return svg(figure)


def _label_points(axes: Axes, models: Sequence[ModelScore]) -> None:
    """Write the name of each model where it overlaps names, points and intervals least, and is nearest to its point."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr] # only now the axes have pixel coordinates
    bars = [axes.transData.transform([(model.seconds, model.low), (model.seconds, model.high)]) for model in models]
    markers = [axes.transData.transform((model.seconds, model.accuracy)) for model in models]
    occupied = [Bbox([(x - 3, low), (x + 3, high)]) for (x, low), (_, high) in bars]
    occupied += [Bbox([(x - _MARKER, y - _MARKER), (x + _MARKER, y + _MARKER)]) for x, y in markers]
    for number, model in enumerate(models):
        point = (model.seconds, model.accuracy)
        candidates = [
            axes.annotate(model.name, point, (x, y), textcoords="offset points", ha=ha, va=va, in_layout=False)
            for x, y, ha, va in _LABEL_POSITIONS
        ]
        boxes = [candidate.get_window_extent() for candidate in candidates]
        costs = [_overlap(box, occupied, axes.bbox) + _nearer(box, markers, number) for box in boxes]
        best = costs.index(min(costs))
        occupied.append(boxes[best])
        for candidate in candidates[:best] + candidates[best + 1 :]:
            candidate.remove()


def _overlap(box: Bbox, occupied: Sequence[Bbox], frame: BboxBase) -> float:
    """Return the area of a box that is occupied or outside the frame, in square pixels."""
    shared = [Bbox.intersection(box, other) for other in occupied]
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0)
    return float(outside + sum(other.width * other.height for other in shared if other))


def _nearer(box: Bbox, markers: Sequence[Any], own: int) -> float:
    """Return a cost for a name that is nearer to other markers than to its own."""
    distances = [math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0)) for x, y in markers]
    return _NEARER * sum(distance < distances[own] for distance in distances)


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.plot([0, 1], [0, 1], ":", color=FOREGROUND, linewidth=0.8)
    return figure, axes


def svg(figure: Figure) -> str:
    """Return a figure as SVG without a date, random ids and a text colour of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(FOREGROUND, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", text)  # ids must be unique on a page with several figures


def strip_plot(panels: Mapping[str, Mapping[str, Sequence[float]]], *, varied: str = "") -> str:
    """Draw a strip plot: the values of each row as small dots, their mean as a large dot.

    Args:
        panels: for each panel, by the label of its axis, the values of each row by the row's name. All panels have the
            same rows.
        varied: title of the figure: the parameters that differ between rows.
    """
    rows = list(next(iter(panels.values())))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2 * WIDTH, 1.4 + 0.32 * len(rows)), layout="constrained")
        if varied:
            figure.suptitle(varied, x=0.01, ha="left", fontsize="medium")
        row_of_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, values), colour in zip(row_of_axes, panels.items(), COLOURS, strict=False):
            for row, name in enumerate(rows):
                axes.plot(values[name], [row] * len(values[name]), "o", color=colour, markersize=3, alpha=0.6)
                axes.plot(sum(values[name]) / len(values[name]), row, "o", color=colour, markersize=8)
            axes.set_xlabel(label)
            axes.grid(axis="y", linewidth=0.3)
            if "accuracy" in label:
                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        row_of_axes[0].set_yticks(range(len(rows)), rows)
        row_of_axes[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row on top, none cut
        return svg(figure)


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
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(max(WIDTH, 1.6 + 0.7 * len(across[1])), 1.6 + 0.5 * len(values)), layout="constrained")
        axes = figure.subplots()
        flat = sorted(value for row in values for value in row)
        axes.imshow(values, cmap="Blues_r", alpha=0.75, aspect="auto")
        dark = flat[0] + 0.4 * (flat[-1] - flat[0])
        for (y, row), (x, _) in itertools.product(enumerate(values), enumerate(across[1])):
            ink = "white" if row[x] < dark else "black"
            axes.annotate(f"{row[x]:.4f}", (x, y), ha="center", va="center", color=ink)
        axes.set_yticks(range(len(down[1])), list(map(str, down[1])))
        axes.set_xticks(range(len(across[1])), list(map(str, across[1])))
        axes.set(ylabel=down[0].replace(".", ".\n"), xlabel=across[0], title=label)
        return svg(figure)
