import logging
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests import networks
from transfer.prediction import versions
from transfer.prediction.page.current import Current
from transfer.runtime.errors import DataError

NEWEST = Path("artifacts/fine_tune")
RED = Image.new("RGB", (20, 20), "red")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a network that takes red for a dog; the current folder."""
    monkeypatch.chdir(tmp_path)
    networks.write_by_colour(NEWEST)
    return Path()


def answer(current: Current) -> str:
    """Return the class of a red photograph."""
    [prediction] = current.model.each([RED])
    return prediction.class_name


def look_twice(current: Current) -> None:
    """Look as often as is needed to take up another network."""
    current.refresh()
    current.refresh()


def git(*arguments: str) -> str:
    """Run Git; return its output."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_promotion_is_taken_up(project: Path) -> None:
    """A network that is put into production while the page runs is the one that predicts from then on."""
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=v1.0.0")
    current = Current(project, None)
    assert answer(current) == "dog"
    networks.write_by_colour(versions.folder(project, git("rev-parse", "HEAD")), certainty=-10)
    git("tag", "--annotate", "--message=Version", "classifier@v1.0.0")
    git("tag", "--annotate", "--message=Better.", "classifier#prod#1")
    current.refresh()
    assert answer(current) == "dog"
    current.refresh()
    assert answer(current) == "cat"
    assert current.model.name.startswith("v1.0.0, in production since ")


def test_a_newer_network_is_taken_up(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A network that is trained while the page runs replaces the one in use, and the log says so."""
    current = Current(project, None)
    look_twice(current)
    networks.write_by_colour(NEWEST, certainty=-10)
    with caplog.at_level(logging.INFO):
        look_twice(current)
    assert answer(current) == "cat"
    own = [record.message for record in caplog.records if record.name.startswith("transfer")]
    assert own == [f"Model: {current.model.name}."]


@pytest.mark.reliability(
    "tampered",
    "a network that replaces the page's and cannot be used",
    "the page stays with the one in use, and says why",
)
def test_a_network_that_cannot_be_used_leaves_the_other_in_place(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged, missing or foreign network is logged once and named as the problem; a good one ends that."""
    current = Current(project, None)
    for damage in (lambda file: os.truncate(file, 1000), Path.unlink, lambda file: file.write_bytes(b"no network")):
        caplog.clear()
        damage(NEWEST / "model.keras")
        look_twice(current)
        look_twice(current)
        assert answer(current) == "dog"
        assert current.problem
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert current.problem in caplog.text
    networks.write_by_colour(NEWEST, certainty=-10)
    look_twice(current)
    assert answer(current) == "cat"
    assert current.problem is None


def test_without_a_usable_network_nothing_is_served(tmp_path: Path) -> None:
    """A network without heat maps, and a missing one, are refused before the page is served."""
    with pytest.raises(DataError, match="is missing"):
        Current(tmp_path, None)
