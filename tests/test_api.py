"""The page docs/api.md: its code works on the results of a run."""

import os
import subprocess
import sys
from pathlib import Path

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


def test_a_script_keeps_what_it_has_written_to_an_open_file(tmp_path: Path) -> None:
    """A script that uses the library and leaves a file open at its end finds everything in it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from transfer.network import backend\nout = open('out', 'w')\ndef write():\n    out.write('all')\nwrite()\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert (tmp_path / "out").read_text() == "all"
