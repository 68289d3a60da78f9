import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from transfer.runtime import stage
from transfer.runtime.errors import ParamsError

REPOSITORY = Path(stage.__file__).parents[2]


def run(body: str, folder: Path, stdout: TextIO | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a stage whose `main` has this body, as a process."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    program = f"from transfer.runtime import errors, stage\ndef main():\n{indented}\nstage.run(main)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_a_stage_that_succeeds_exits_with_zero(tmp_path: Path) -> None:
    """Its log goes to standard error as plain lines; standard output stays empty."""
    result = run("import logging\nlogging.getLogger('x').info('%d photographs', 3)", tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "3 photographs\n")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [("DataError", 65), ("DiskError", 74), ("NetworkError", 75), ("AccessError", 77), ("ParamsError", 78)],
)
def test_each_kind_of_failure_has_its_exit_code(tmp_path: Path, error: str, exit_code: int) -> None:
    """A scheduler decides about a retry by the exit code; the last line is for people."""
    result = run(f"raise errors.{error}('Too few cats. Add some.')", tmp_path)
    assert result.returncode == exit_code
    assert result.stderr == "Too few cats. Add some.\n"


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    """A stage run before the one that makes its input names the file and the command that makes it."""
    result = run("open('artifacts/subsample/manifest.csv')", tmp_path)
    assert result.returncode == 65
    assert result.stderr == (
        "artifacts/subsample/manifest.csv is missing. Run `dvc repro`, which makes missing files.\n"
    )


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("OSError(28, 'No space left on device')", "The disk must have space for another file. Received: no space"),
        ("PermissionError(13, 'Permission denied', 'artifacts')", "`artifacts` must be usable. Received: permission"),
        ("IsADirectoryError(21, 'Is a directory', 'params.yaml')", "`params.yaml` must be usable. Received: is a"),
    ],
)
def test_a_disk_that_refuses_has_its_own_exit_code(tmp_path: Path, raised: str, message: str) -> None:
    """A full or read-only disk is told apart from bad data and from the network, without a traceback."""
    result = run(f"raise {raised}", tmp_path)
    assert result.returncode == 74
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


@pytest.mark.reliability("disk", "full where standard output goes", "exit 74 and one line")
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, flush: bool, unbuffered: str
) -> None:
    """A command whose output goes to a file on a full disk exits with 74, too."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        result = run(f"print('an answer', flush={flush})", tmp_path, stdout=full)
    assert result.returncode == 74
    assert result.stderr.startswith("The disk must have space")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "raised",
    [
        "ZeroDivisionError",
        "OSError('no number')",
        "PermissionError(1, 'Operation not permitted')",
        "ConnectionResetError(104, 'Connection reset by peer')",
        "__import__('socket').gaierror(-2, 'Name or service not known')",
    ],
)
def test_an_unexpected_exception_keeps_its_traceback(tmp_path: Path, raised: str) -> None:
    """A fault of the program shows where it happened, and is not reported as one of the disk."""
    result = run(f"raise {raised}", tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_missing_package_is_named() -> None:
    """A Python without a package is named; a missing module of the project's own keeps its traceback."""
    with (
        pytest.raises(ParamsError, match=f"Received: {sys.executable}, which lacks `nosuch`"),
        stage.packages_required(),
    ):
        import nosuch.module  # noqa: F401, PLC0415
    with pytest.raises(ModuleNotFoundError, match="nosuch"), stage.packages_required():
        import transfer.nosuch  # noqa: F401, PLC0415
