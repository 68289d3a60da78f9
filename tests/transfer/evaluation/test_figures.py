import itertools
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from transfer.evaluation import figures, scores
from transfer.training import history

ROWS = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
PHASES = [history.Phase("train_head", ROWS, 2), history.Phase("fine_tune", ROWS, 1)]
POINTS = [scores.Point(0, 0), scores.Point(0, 0.5), scores.Point(1, 1)]
BINS = [scores.Bin(3, 0.6, 0.5), scores.Bin(7, 0.9, 1.0)]
SCORES = [
    figures.ModelScore("logistic regression", 0, 9.0, 0.58, 0.53, 0.63),
    figures.ModelScore("MLP", 0, 10.0, 0.59, 0.54, 0.64),
    figures.ModelScore("CNN", 1, 90.0, 0.72, 0.67, 0.76),
    figures.ModelScore("VGG16", 3, 1900.0, 0.985, 0.97, 0.99),
]
VALUES = {"narrow": [0.3, 0.4], "wide": [0.2]}


def all_figures() -> dict[str, str]:
    """A figure of each kind."""
    return {
        "learning_curves": figures.learning_curves(history.concatenate(PHASES)),
        "roc": figures.roc({"train_head": POINTS, "fine_tune": POINTS[::2]}),
        "reliability": figures.reliability({"train_head": BINS, "fine_tune": BINS[1:]}),
        "accuracy_against_time": figures.accuracy_against_time(SCORES, accuracy="accuracy", time="seconds"),
        "strip_plot": figures.strip_plot({"val_loss": VALUES, "val_accuracy": VALUES}, varied="train_head.head.dense"),
        "heat_map": figures.heat_map(
            [[0.5, 0.25]], ("train_head.head.l2", [0.1]), ("train_head.head.dropout", [0.0, 0.5]), "val_loss"
        ),
    }


def elements(svg: str) -> list[ET.Element]:
    """The elements of an SVG."""
    return list(ET.fromstring(svg).iter())  # noqa: S314 - the project's own output


def texts(svg: str) -> list[str]:
    """The texts in an SVG."""
    return [element.text or "" for element in elements(svg) if element.tag.endswith("}text")]


def test_learning_curves_have_a_column_for_each_training_run() -> None:
    """Each training run has a title, and its epochs count from 1, as in the report's text; nothing is on the curves."""
    labels = texts(all_figures()["learning_curves"])
    assert [labels.count(name) for name in ("training of the head", "fine-tuning", "epoch")] == [1, 1, 1]
    assert {"train", "validation", "loss", "accuracy"} <= set(labels)
    assert [labels.count(str(epoch)) for epoch in (1, 2, 3, 4)] == [2, 2, 2, 0]


def test_epochs_that_over_fit_are_shaded() -> None:
    """Over-fitting epochs have a shade with one entry in the legend; without such epochs there is no entry."""
    phases = [PHASES[0]._replace(over_fits_from=2), PHASES[1]._replace(over_fits_from=1)]
    labels = texts(figures.learning_curves(history.concatenate(phases)))
    assert labels.count("over-fits") == 1
    assert "over-fits" not in texts(all_figures()["learning_curves"])


def test_bins_of_few_photographs_are_grey() -> None:
    """A bin with fewer than five photographs is a grey dot without a line."""
    grey = figures.FEW_COLOUR
    assert grey in figures.reliability({"head": BINS})
    assert grey not in figures.reliability({"head": BINS[1:]})


@pytest.mark.parametrize("name", ["roc", "reliability"])
def test_both_models_are_named(name: str) -> None:
    """The legend names each model's line."""
    assert {"train_head", "fine_tune"} <= set(texts(all_figures()[name]))


def test_every_point_is_labelled_once() -> None:
    """The name of each model occurs once, and both axes have labels."""
    labels = texts(all_figures()["accuracy_against_time"])
    assert [labels.count(name) for name in (*(score.name for score in SCORES), "accuracy", "seconds")] == [1] * 6


def test_labels_lie_over_no_marker() -> None:
    """The names of models that are close to each other are next to the markers, not on them."""
    from matplotlib.axes import Axes  # noqa: PLC0415 - only here
    from matplotlib.figure import Figure  # noqa: PLC0415 - only here

    close = [score._replace(seconds=100 + 5 * number, accuracy=0.7) for number, score in enumerate(SCORES)]
    axes: Axes = Figure(figsize=(7.4, 4.8), layout="constrained").subplots()
    axes.set_xscale("log")
    axes.plot([score.seconds for score in close], [score.accuracy for score in close], "o")
    axes.margins(x=0.35, y=0.5)
    figures._label_points(axes, close)
    labels = [text.get_window_extent() for text in axes.texts]
    markers = axes.transData.transform([(score.seconds, score.accuracy) for score in close])
    assert len(labels) == len(close)
    assert not any(label.contains(*marker) for label in labels for marker in markers)
    assert not any(first.overlaps(second) for first, second in itertools.combinations(labels, 2))


def test_a_strip_plot_names_its_rows_and_panels() -> None:
    """Rows are named once, at the left, and each panel has its label."""
    labels = texts(all_figures()["strip_plot"])
    assert [labels.count(name) for name in ("narrow", "wide", "val_loss", "val_accuracy")] == [1] * 4
    assert "train_head.head.dense" in labels


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_a_strip_plot_of_few_rows_is_not_cut(rows: int) -> None:
    """All dots and texts lie within the picture."""
    values = {f"point {number}": [0.1 * number, 0.2] for number in range(rows)}
    svg = figures.strip_plot({"validation log loss": values, "validation accuracy": values}, varied="points")
    width, height = (float(size) for size in elements(svg)[0].attrib["viewBox"].split()[2:])
    places = [(element.get("x"), element.get("y")) for element in elements(svg) if element.tag.endswith("}use")]
    assert len(places) > 4 * rows
    assert all(4 < float(x or 0) < width - 4 and 4 < float(y or 0) < height - 4 for x, y in places)
    assert height > 100


def test_a_heat_map_shows_values_and_parameters() -> None:
    """Each cell shows its value; axes have the parameters' names."""
    labels = texts(all_figures()["heat_map"])
    assert {"0.5000", "0.2500", "train_head.", "l2", "train_head.head.dropout", "val_loss"} <= set(labels)


def test_the_same_data_give_the_same_bytes() -> None:
    """A figure of the same data has the same bytes, and no date."""
    assert all_figures() == all_figures()
    assert not any("date" in svg for svg in all_figures().values())


def test_figures_inherit_the_text_colour() -> None:
    """Axes and texts have the page's text colour, so that they are visible in light and in dark mode."""
    for svg in all_figures().values():
        assert figures.FOREGROUND not in svg
        assert "#000000" not in svg
        assert "currentColor" in svg


def test_figures_on_a_page_share_no_ids() -> None:
    """Two figures have no id in common, except for elements of equal content."""
    ids = [
        {element.get("id"): ET.tostring(element) for element in elements(svg) if element.get("id")}
        for svg in all_figures().values()
    ]
    for number, first in enumerate(ids):
        for second in ids[number + 1 :]:
            assert all(first[name] == second[name] for name in first.keys() & second.keys())


def test_matplotlib_s_settings_are_restored() -> None:
    """Plotting does not change Matplotlib's settings for other code in the same process."""
    before = dict(mpl.rcParams)
    all_figures()
    assert dict(mpl.rcParams) == before
