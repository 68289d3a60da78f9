import subprocess
import sys

import pytest

from baselines import __main__ as runner
from tests.baselines.conftest import ROOT


def test_a_python_without_the_packages_is_named() -> None:
    """Without the project's packages, the stage ends with 78 and one line that names this Python and what to run."""
    command = [sys.executable, "-S", "-m", "baselines", "compare"]  # -S: without site-packages
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 78
    (line,) = result.stderr.splitlines()
    assert sys.executable in line
    assert "`make install`" in line


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the known models."""
    with pytest.raises(SystemExit) as end:
        runner.main(["train", "transformer"])
    assert end.value.code == 2
    assert "cnn_augmented" in capsys.readouterr().err
