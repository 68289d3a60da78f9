import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from transfer.evaluation import figures, scores
from transfer.training import history

ROWS = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
PHASES = [history.Phase("train_head", ROWS, 2), history.Phase("fine_tune", ROWS, 1)]
POINTS = [scores.Point(0, 0), scores.Point(0, 0.5), scores.Point(1, 1)]
BINS = [scores.Bin(3, 0.6, 0.5), scores.Bin(7, 0.9, 1.0)]
PLACES = [
    figures.Place("logistic regression", 0, 9.0, 0.58, 0.53, 0.63),
    figures.Place("MLP", 0, 10.0, 0.59, 0.54, 0.64),
    figures.Place("CNN", 1, 90.0, 0.72, 0.67, 0.76),
    figures.Place("VGG16", 3, 1900.0, 0.985, 0.97, 0.99),
]


def drawings() -> dict[str, str]:
    """A drawing of each kind."""
    return {
        "learning_curves": figures.learning_curves(history.concatenate(PHASES)),
        "roc": figures.roc({"train_head": POINTS, "fine_tune": POINTS[::2]}),
        "reliability": figures.reliability({"train_head": BINS, "fine_tune": BINS[1:]}),
        "accuracy_against_time": figures.accuracy_against_time(PLACES, accuracy="accuracy", time="seconds"),
    }


def elements(drawing: str) -> list[ET.Element]:
    """The elements of a drawing."""
    return list(ET.fromstring(drawing).iter())  # noqa: S314 - drawn by the project itself


def words(drawing: str) -> list[str]:
    """The texts in a drawing."""
    return [element.text or "" for element in elements(drawing) if element.tag.endswith("}text")]


def test_learning_curves_are_one_picture() -> None:
    """The picture shows where fine-tuning begins and which epochs were kept."""
    shown = words(drawings()["learning_curves"])
    assert shown.count("fine_tune begins") == 1
    assert {"train", "validation", "loss", "accuracy"} <= set(shown)
    assert (shown.count("2"), shown.count("4")) >= (2, 2)


def test_epochs_that_over_fit_are_shaded() -> None:
    """The shade and its name in the legend are there if epochs over-fit, and only then."""
    phases = [PHASES[0]._replace(over_fits_from=2), PHASES[1]._replace(over_fits_from=1)]
    shown = words(figures.learning_curves(history.concatenate(phases)))
    assert shown.count("over-fits") == 1
    assert "over-fits" not in words(drawings()["learning_curves"])


@pytest.mark.parametrize("name", ["roc", "reliability"])
def test_both_models_are_named(name: str) -> None:
    """A legend says which line is which model's."""
    assert {"train_head", "fine_tune"} <= set(words(drawings()[name]))


def test_every_model_is_named_once_beside_its_point() -> None:
    """Each name is in the picture once, and both axes say what they are."""
    shown = words(drawings()["accuracy_against_time"])
    assert [shown.count(name) for name in (*(place.name for place in PLACES), "accuracy", "seconds")] == [1] * 6


def test_drawings_have_the_same_bytes_again() -> None:
    """Drawing the same data again changes no byte, and there is no date in it."""
    assert drawings() == drawings()
    assert not any("date" in drawing for drawing in drawings().values())


def test_drawings_take_the_page_s_colour() -> None:
    """Lines and letters have the page's own colour, so that they are seen on light and on dark."""
    for drawing in drawings().values():
        assert figures.FOREGROUND not in drawing
        assert "#000000" not in drawing
        assert "currentColor" in drawing


def test_drawings_share_no_name_on_a_page() -> None:
    """Drawings on one page have no element's id in common but those of equal content."""
    ids = [
        {element.get("id"): ET.tostring(element) for element in elements(drawing) if element.get("id")}
        for drawing in drawings().values()
    ]
    for number, first in enumerate(ids):
        for second in ids[number + 1 :]:
            assert all(first[name] == second[name] for name in first.keys() & second.keys())


def test_drawing_leaves_matplotlib_s_settings_alone() -> None:
    """Whoever draws something else in the same process is not disturbed."""
    before = dict(mpl.rcParams)
    drawings()
    assert dict(mpl.rcParams) == before
