import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from transfer.runtime import stage

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


def test_a_stage_that_is_done_ends_with_zero(tmp_path: Path) -> None:
    """What it says on the way goes to standard error, plainly; standard output stays empty."""
    done = run("import logging\nlogging.getLogger('x').info('%d photographs', 3)", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "3 photographs\n")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [("DataError", 65), ("DiskError", 74), ("NetworkError", 75), ("AccessError", 77), ("ParamsError", 78)],
)
def test_each_kind_of_failure_has_its_exit_code(tmp_path: Path, error: str, exit_code: int) -> None:
    """A scheduler sees from the code alone whether a retry makes sense; the last line tells people."""
    ended = run(f"raise errors.{error}('Too few cats. Add some.')", tmp_path)
    assert ended.returncode == exit_code
    assert ended.stderr == "Too few cats. Add some.\n"


def test_a_missing_input_is_no_full_disk(tmp_path: Path) -> None:
    """A stage run before the one it needs says which file is missing and what makes it."""
    ended = run("open('artifacts/subsample/manifest.csv')", tmp_path)
    assert ended.returncode == 65
    assert ended.stderr == (
        "artifacts/subsample/manifest.csv is missing. `dvc repro` makes what is missing and goes on from there.\n"
    )


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "OSError(28, 'No space left on device')",
            "The disk must have room for what is written. Received: no space left",
        ),
        ("PermissionError(13, 'Permission denied', 'artifacts')", "`artifacts` must be yours to read and write"),
        ("IsADirectoryError(21, 'Is a directory', 'params.yaml')", "`params.yaml` must be a file or folder"),
    ],
)
def test_a_disk_that_refuses_has_its_own_exit_code(tmp_path: Path, raised: str, said: str) -> None:
    """A full or read-only disk is neither the data's fault nor the network's, and needs no traceback."""
    ended = run(f"raise {raised}", tmp_path)
    assert ended.returncode == 74
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1


@pytest.mark.reliability("disk", "full where standard output goes", "exit 74 and one line")
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_answers_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, flush: bool, unbuffered: str
) -> None:
    """What a command prints may go to a file on a full disk, too."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        ended = run(f"print('an answer', flush={flush})", tmp_path, stdout=full)
    assert ended.returncode == 74
    assert ended.stderr.startswith("The disk must have room")
    assert ended.stderr.count("\n") == 1


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
def test_a_fault_of_the_program_shows_where(tmp_path: Path, raised: str) -> None:
    """What nobody foresaw keeps its traceback, and is not blamed on the disk."""
    ended = run(f"raise {raised}", tmp_path)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
