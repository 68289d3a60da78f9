import argparse
from contextlib import suppress
from pathlib import Path

import pytest

from transfer.prediction import heat_maps
from transfer.prediction.model import Prediction


def test_a_heat_map_is_named_after_its_photograph() -> None:
    """Names that differ in folder or case alone are numbered, and none is the page's."""
    names = heat_maps.names(["a/0.jpg", "b/0.png", "b/O.png", "index.html", "b/o.gif"])
    assert names["a/0.jpg"] == "0.jpg"
    assert names["b/0.png"] == "0-2.jpg"
    assert len({name.casefold() for name in names.values()}) == 5
    assert heat_maps.INDEX not in names.values()


def test_heat_maps_are_not_written_among_other_files(tmp_path: Path) -> None:
    """A new or empty folder and one of earlier heat maps are accepted; a folder with other files is not."""
    assert heat_maps.folder(str(tmp_path / "new")) == tmp_path / "new"
    assert heat_maps.folder(str(tmp_path)) == tmp_path
    with heat_maps.gallery(tmp_path, ["0.jpg"]):
        pass
    assert heat_maps.folder(str(tmp_path)) == tmp_path
    (tmp_path / "own").mkdir()
    (tmp_path / "own/photograph.jpg").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="a new or empty folder"):
        heat_maps.folder(str(tmp_path / "own"))


def test_the_page_shows_what_was_written_even_if_interrupted(tmp_path: Path) -> None:
    """The page lists the heat maps written so far, and shows a hostile name as text."""
    name = "<script>.jpg"
    with suppress(KeyboardInterrupt), heat_maps.gallery(tmp_path, [name, "later.jpg"]) as gallery:
        gallery.add(name, Prediction("cat", 0.9, {"cat": 0.9, "dog": 0.1}, "cat"), b"JPEG")
        raise KeyboardInterrupt
    page = (tmp_path / heat_maps.INDEX).read_text()
    assert "&lt;script&gt;.jpg" in page
    assert "<script>.jpg" not in page
    assert "later.jpg" not in page


def test_the_page_has_an_answer_that_is_no_class(tmp_path: Path) -> None:
    """A photograph that is answered "none of these" does not look like a certain cat; others have the class alone."""
    with heat_maps.gallery(tmp_path, ["sea.jpg", "cat.jpg"]) as gallery:
        for name, answer in (("sea.jpg", "none of these"), ("cat.jpg", "cat")):
            gallery.add(name, Prediction("cat", 0.9, {"cat": 0.9, "dog": 0.1}, answer), b"JPEG")
    page = (tmp_path / heat_maps.INDEX).read_text()
    assert "<figcaption>none of these: cat with 90.0&nbsp;%" in page
    assert "<figcaption>cat with 90.0&nbsp;%" in page
