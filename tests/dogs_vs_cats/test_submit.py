import pytest
import typer
from typer.testing import CliRunner

from dogs_vs_cats import __main__ as door
from dogs_vs_cats import workspace
from dogs_vs_cats.submit import Competition
from transfer.prediction import submit
from transfer.sources import competition


def test_submission_has_the_options_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` has the options and competitions of `python -m transfer.prediction.submit`, and passes those given."""
    own = {option for action in submit._parser()._actions for option in action.option_strings} - {"-h", "--help"}
    command = typer.main.get_command(door.app).commands["submit"]  # type: ignore[attr-defined]
    assert {option for parameter in command.params for option in parameter.opts if option.startswith("-")} == own
    assert tuple(Competition) == competition.NAMES
    started: list[str] = []
    monkeypatch.setattr(workspace, "replace_here", lambda _, *arguments: started.extend(arguments))
    module = ["transfer.prediction.submit", "--competition=dogs-vs-cats", "--output=submission.csv"]
    for given, passed in {
        (): [],
        ("--send", "-x", "--clip", "0.02", "a.zip"): ["--clip=0.02", "--send=-x", "--", "a.zip"],
        ("--accept-unreadable",): ["--accept-unreadable"],
    }.items():
        result = CliRunner().invoke(door.app, ["submit", *given])
        assert result.exit_code == 0, result.output
        assert started == [*module, *passed]
        started.clear()
