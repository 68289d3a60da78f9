import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import prefect_settings

ROOT = Path(__file__).parents[2]


def worker(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Start a worker in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "flows.worker"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_setting_that_is_not_valid_is_named(tmp_path: Path) -> None:
    """A wrong value of a Prefect setting ends a command without a traceback; the last line names the setting."""
    done = worker(tmp_path, PREFECT_API_REQUEST_TIMEOUT="https://name:secret@server.example")
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Prefect's settings")
    assert "request_timeout: Input should be a valid number" in last
    assert "secret" not in last


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    """A prefect.toml that cannot be read ends a command without a traceback; the last line names the file."""
    (tmp_path / "prefect.toml").write_text("[server\n")
    done = worker(tmp_path)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert "prefect.toml: invalid TOML" in done.stderr.splitlines()[-1]


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that is not of a setting is shown as Python shows it."""
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    prefect_settings.report_errors()
    error = ValueError("a fault of the program")
    sys.excepthook(ValueError, error, None)
    assert capsys.readouterr().err == "ValueError: a fault of the program\n"
