"""dogs_vs_cats/options.py: options as arguments."""

from pathlib import Path

from dogs_vs_cats import options


def test_given_options_are_passed_on_and_others_left_out() -> None:
    """A module receives each given option with its value, also 0, which it may refuse, and none that was not given."""
    given = {"--format": options.Output.JSON, "--model": None, "--sheet": Path("a b.jpg"), "--least-certain": 0}
    assert options.arguments(given) == ["--format=json", "--sheet=a b.jpg", "--least-certain=0"]
