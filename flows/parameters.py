"""Parameters: check params.yaml before a run, as the stages would check it."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from flows import workspace
from transfer.runtime import paths
from transfer.runtime.errors import ParamsError, StageError


def check(files: Iterable[Path] = (paths.PARAMS,)) -> None:
    """Check every section of some files like params.yaml.

    The tasks of the current folder check them in a child process, as they import TensorFlow.

    Raises:
        ParamsError: a parameter is missing, unknown or not allowed. The message has a line for each mistake, after the
            file's name unless the file is params.yaml.
        StageError: the check itself failed.
    """
    names = [str(file) for file in files]
    variables = {name: value for name, value in workspace.environment().items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(  # noqa: S603 - no shell, and the project's own module
        [sys.executable, "-m", "tasks", "--check", *names],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == ParamsError.exit_code:
        lines = [line for line in done.stderr.splitlines() if line.startswith(tuple(f"{name}: " for name in names))]
        raise ParamsError("\n".join(line.removeprefix(f"{paths.PARAMS}: ") for line in lines) or done.stderr.strip())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _error(done.returncode)(f"The parameters cannot be checked: {last}")


def _error(exit_code: int) -> type[StageError]:
    """Return the error of an exit code."""
    return next((kind for kind in StageError.__subclasses__() if kind.exit_code == exit_code), StageError)
