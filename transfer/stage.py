"""A stage as a process: its exit code and its last words are what the outside relies on."""

import errno
import logging
import sys
import warnings
from collections.abc import Callable

from transfer.errors import StageError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}  # writing fails with these and no name


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` as this process's whole work and end with the exit code of what happened.

    0: done. 65, 75, 77, 78: see `transfer.errors`; the last line on standard error is the message for
    the user. 65 too when a file is missing that another stage makes. 74: the disk refused (full, read-only,
    no permission). 130: interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is said as a photograph's reason
    try:
        main()
    except StageError as error:
        _end(error.exit_code, str(error))
    except KeyboardInterrupt:
        _end(130, "Interrupted. What was complete is kept; run the same command to go on.")
    except FileNotFoundError as error:
        _end(65, f"{error.filename} is missing. `dvc repro` makes what is missing and goes on from there.")
    except OSError as error:
        if error.filename is None and error.errno not in _DISK:
            raise
        _end(74, f"{error.strerror}: {error.filename or 'writing'}. Free space or mend permissions, then run again.")


def _end(exit_code: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    sys.exit(exit_code)
