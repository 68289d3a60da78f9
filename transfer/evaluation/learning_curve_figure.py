"""Learning curve figure: the losses of probes by the number of photographs, and the continued power law."""

from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from transfer.evaluation.figures import COLOURS, FOREGROUND, SETTINGS, WIDTH, svg
from transfer.evaluation.learning_curve import Outlook

_HEIGHT = 3.2  # inches
_TICKS = 6  # numbers on the horizontal axis at most: more would overlap


def draw(outlook: Outlook) -> str:
    """Draw mean losses as dots, the fitted law with its interval, and its values now and with twice as many.

    Both axes are logarithmic, on which a power law without a floor is a straight line.

    Returns:
        The figure as SVG.
    """
    curve, forecast = outlook
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        sizes, fitted = zip(*forecast.line, strict=True)
        values, low, high = zip(*fitted, strict=True)
        measured = sum(size <= curve.sizes[-1] for size in sizes)
        axes.fill_between(sizes, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.plot(sizes[:measured], values[:measured], "-", color=COLOURS[0], label="fitted")
        axes.plot(sizes[measured - 1 :], values[measured - 1 :], "--", color=COLOURS[0], label="continued")
        axes.plot(curve.sizes, curve.losses.mean(axis=0), "o", color=COLOURS[1], label="measured")
        for size in (forecast.photographs, 2 * forecast.photographs):
            axes.axvline(size, color=FOREGROUND, linestyle=":", linewidth=0.8)
        _label(axes, curve.sizes)
        axes.legend(loc="lower left")
        return svg(figure)


def _label(axes: Axes, sizes: Iterable[int]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="photographs to train on", ylabel="log loss")
    every = list(sizes)
    axes.set_xticks(every[:: 1 + len(every) // _TICKS])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
