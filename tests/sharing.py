"""Share slow fixtures between the processes of one test run: the first process makes a thing, the others use it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of this test run, which its processes share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def controller() -> int:
    """Return the PID of the process that lasts as long as this test run."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Fill a folder in the first process that calls this, while the others wait; return the folder.

    Args:
        path: the folder.
        make: fills it.
    """
    complete = path.with_name(f"{path.name}.complete")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not complete.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            make(path)
            complete.touch()
    return path
