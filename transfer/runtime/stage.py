"""A stage as a process: its exit code and its last words are what the outside relies on."""

import logging
import os
import sys
import warnings
from collections.abc import Callable

from transfer.runtime import disk, signals
from transfer.runtime.errors import DiskError, StageError


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` as this process's whole work and end with the exit code of what happened.

    0: done. 65, 74, 75, 77, 78: see `transfer.errors`; the last line on standard error is the message for
    the user. 65 too when a file is missing that another stage makes. 129, 130, 143: the terminal was closed,
    Ctrl-C, a request to end (SIGTERM).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said as a photograph's reason
    try:
        with signals.handle_signals():
            main()
            sys.stdout.flush()
    except StageError as error:
        _end(error.exit_code, str(error))
    except signals.Interrupted as asked:
        signals.exit_now(asked)
    except FileNotFoundError as error:
        _end(65, f"{error.filename} is missing. `dvc repro` makes what is missing and goes on from there.")
    except OSError as error:
        if error.filename is None and not disk.is_disk_error(error):
            raise
        _end(DiskError.exit_code, disk.error_message(error))


def _end(exit_code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and end with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)
