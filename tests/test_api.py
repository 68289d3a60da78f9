"""The page docs/api.md: its code works on the results of a run."""

import pytest

from tests.conftest import Reproduced
from tests.test_docs import ROOT, fenced


def test_the_code_of_the_page_runs(
    reproduced: Reproduced, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data, features, a head and a prediction: the blocks of the page run one after another, as in a notebook."""
    monkeypatch.chdir(reproduced.workspace)
    code = compile("\n".join(fenced(ROOT / "docs/api.md", "python")), "docs/api.md", "exec")
    exec(code, {})  # noqa: S102 - the project's own page
    output = capsys.readouterr().out
    assert "photographs of cat, dog" in output
    assert "accuracy on the validation split: " in output
    assert ": cat, " in output or ": dog, " in output
