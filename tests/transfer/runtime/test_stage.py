import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from transfer.runtime import stage
from transfer.runtime.errors import ParamsError

REPOSITORY = Path(stage.__file__).parents[2]


def run(
    body: str, folder: Path, stdout: TextIO | int = subprocess.PIPE, stderr: TextIO | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a stage whose `main` has this body, as a process."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    program = f"from transfer.runtime import errors, stage\ndef main():\n{indented}\nstage.run(main)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        stdout=stdout,
        stderr=stderr,
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


def test_a_missing_file_that_no_stage_makes_is_not_promised(tmp_path: Path) -> None:
    """`dvc repro` makes artifacts; for another file, and one outside of the project, it is not advised."""
    for path in ("inbox/cat.jpg", "/nowhere/artifacts/model.keras"):
        result = run(f"open({path!r})", tmp_path)
        assert (result.returncode, result.stderr) == (
            65,
            f"{path} is missing. Check the path or put the file back, then run again.\n",
        )


@pytest.mark.reliability("training", "the system refuses memory", "exit 71 and one line with the sizes to lower")
@pytest.mark.parametrize(
    "body",
    [
        "raise MemoryError",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\nbytearray(2**34)",
        "import numpy\nnumpy.empty(2**50)",
        "raise OSError(12, 'Cannot allocate memory')",
        'raise RuntimeError("can\'t start new thread")',
        "class ResourceExhaustedError(Exception): pass\nraise ResourceExhaustedError('OOM\\n' + 'x' * 999)",
    ],
    ids=["MemoryError", "limit", "numpy", "fork", "thread", "TensorFlow"],
)
def test_refused_memory_has_its_own_exit_code(tmp_path: Path, body: str) -> None:
    """Neither the data nor the disk is blamed, and there is no traceback."""
    result = run(body, tmp_path)
    assert result.returncode == 71, result.stderr
    assert result.stderr.startswith("The stage needs more memory than the system gives. Received: ")
    assert "Lower sizes in params.yaml, such as `batch_size`" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.reliability(
    "disk", "standard output or error is closed, or its reader has ended", "the exit code is that of the stage, or 141"
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("raise errors.DataError('x')", 65), ("1 / 0", 1)])
def test_a_closed_stream_does_not_change_the_result(tmp_path: Path, closed: str, body: str, code: int) -> None:
    """A stage started without standard output or error ends as others do, and nothing is written into its files."""
    program = f"""
import logging, os
from transfer.runtime import errors, stage
def main():
    with open("file", "w") as file:
        print("printed", flush=True)
        logging.info("logged")
        os.write(2, b"written")
        file.write("content")
    {body}
stage.run(main)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PROGRAM": program}
    command = ["sh", "-c", f'exec "{sys.executable}" -c "$PROGRAM" {closed}']
    result = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == code
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_ended_ends_the_stage(tmp_path: Path, stream: str) -> None:
    """A stage whose output goes to `head` exits with 141, as a shell reports it; there is no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        print_there = f"import sys\nfor _ in range(9999): print('line', file=sys.{stream}, flush=True)"
        result = run(print_there, tmp_path, **{stream: pipe})
    assert result.returncode == 141
    if stream == "stdout":
        assert result.stderr == "The reader of the output has ended.\n"
