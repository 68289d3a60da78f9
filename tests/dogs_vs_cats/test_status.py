from pathlib import Path

from dogs_vs_cats import status
from tests.conftest import Reproduced


def test_each_stage_has_a_line(reproduced: Reproduced) -> None:
    """After a run all stages are up to date; each has the first line of its module's docstring, in 100 columns."""
    lines = status.table(reproduced.workspace).splitlines()
    assert lines[0].split() == ["stage", "state", "what", "it", "does"]
    assert max(map(len, lines)) <= 100
    (download,) = (line for line in lines if line.startswith("download "))
    assert "up to date" in download


def test_a_stage_without_a_module_has_no_description() -> None:
    """A stage that runs another command is listed by its name and state."""
    assert status.description(Path("tasks/unknown.py")) == ""
