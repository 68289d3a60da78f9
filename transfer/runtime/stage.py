"""A stage as a process: callers rely on its exit code and its last line on standard error."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transfer.runtime import disk, signals
from transfer.runtime.errors import DataError, DiskError, ParamsError, StageError

_OWN = ("transfer", "tasks", "baselines")


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` in this process, and exit with a code that tells how it ended.

    The last line on standard error is the message for the user. Exit codes: 0 if `main` returns; those of
    `transfer.runtime.errors`, with 65 for a missing file, which another stage makes, and 74 for a disk that refuses;
    129, 130 and 143 after SIGHUP, SIGINT and SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is a photograph's reason for rejection
    try:
        with signals.handle_signals():
            main()
            sys.stdout.flush()
    except StageError as error:
        _exit(error.exit_code, str(error))
    except FileNotFoundError as error:
        _exit(DataError.exit_code, f"{error.filename} is missing. Run `dvc repro`, which makes missing files.")
    except OSError as error:
        if error.filename is None and not disk.is_disk_error(error):
            raise
        _exit(DiskError.exit_code, disk.error_message(error))


@contextmanager
def packages_required() -> Iterator[None]:
    """Raise a `ParamsError` that names this Python if the block imports a package that it lacks.

    The modules of `transfer.runtime` that this one imports need no packages.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OWN:
            raise
        raise ParamsError(
            f"Stages need a Python that has the project's packages. Received: {sys.executable}, which lacks "
            f"`{error.name}`. Run `make install` and `. .venv/bin/activate`, then try again."
        ) from None


def _exit(exit_code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would flush again at its end, and exit with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)
