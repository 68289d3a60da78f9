"""A stage as a process: callers rely on its exit code and its last line on standard error."""

import atexit
import errno
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from transfer.runtime import disk, paths, signals, users
from transfer.runtime.errors import AccessError, DataError, DiskError, ParamsError, ResourceError, StageError

BROKEN_PIPE = 141  # the exit code that a shell reports for a program ended by SIGPIPE

_OWN = ("transfer", "tasks", "baselines")


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` in this process, and exit with a code that tells how it ended.

    The last line on standard error is the message for the user. Exit codes: 0 if `main` returns; those of
    `transfer.runtime.errors`, with 65 for a missing file, 71 for refused memory and 74 for a disk that refuses;
    129, 130 and 143 after SIGHUP, SIGINT and SIGTERM; 141 if the reader of the output has ended.
    """
    # Python looks for garbage among all objects once more when it ends, which takes TensorFlow's half a second; not in
    # a user's own process, where it closes files that the user left open
    atexit.register(gc.freeze)
    open_streams()  # before logging takes standard error
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.raiseExceptions = False  # a log record that cannot be written is no error of the stage
    warnings.filterwarnings("ignore", module="PIL")  # what matters of them is a photograph's reason for rejection
    with errors_in_one_line(), signals.handle_signals():
        main()
        sys.stdout.flush()


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Exit with a message and an exit code, as `run` does, if the block raises an error that the user can act on."""
    open_streams()
    try:
        yield
    except Exception as error:
        failure = _failure(error)
        if failure is None:
            raise
        _exit(*failure)


def open_streams() -> None:
    """Open the null device for each standard stream that is closed, so that no other file gets its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the process


def _failure(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the message for an error that the user can act on; None for a fault of the program."""
    if isinstance(error, StageError):
        return error.exit_code, str(error)
    if _is_memory_error(error):
        return ResourceError.exit_code, _memory_message(error)
    if users.is_user_error(error):
        return AccessError.exit_code, users.message()
    return _system_failure(error) if isinstance(error, OSError) else None


def _system_failure(error: OSError) -> tuple[int, str] | None:
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str | bytes | os.PathLike):
        return DataError.exit_code, _missing_message(os.fsdecode(error.filename))
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return BROKEN_PIPE, "The reader of the output has ended."
    if error.filename is not None or disk.is_disk_error(error):
        return DiskError.exit_code, disk.error_message(error)
    return None


def _memory_message(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return (
        f"The stage needs more memory than the system gives. Received: {reason}. "
        "Lower sizes in params.yaml, such as `batch_size`, or end other programs, then run again."
    )


def _missing_message(path: str) -> str:
    """Return a message for a missing file; `dvc repro` makes artifacts only."""
    if Path(path).is_relative_to(paths.ARTIFACTS):
        return f"{path} is missing. Run `dvc repro`, which makes missing files."
    return f"{path} is missing. Check the path or put the file back, then run again."


def _is_memory_error(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}  # TensorFlow is not imported for its exception
    thread = isinstance(error, RuntimeError) and str(error) == "can't start new thread"
    return (
        thread
        or "MemoryError" in names
        or "ResourceExhaustedError" in names
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


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
        raise ParamsError(_lacking(error.name)) from None


def require_packages(*names: str) -> None:
    """Exit with a message if this Python lacks one of some packages; for packages that `python -m` starts.

    Python imports a package before the module that it runs, and has `-m` in the place of the program's name meanwhile.
    """
    lacking = [name for name in names if find_spec(name) is None] if sys.argv[:1] == ["-m"] else []
    if lacking:
        _exit(ParamsError.exit_code, _lacking(lacking[0]))


def _lacking(package: str) -> str:
    return (
        f"The project needs a Python that has its packages. Received: {sys.executable}, which lacks `{package}`. "
        "Run `make install` and `. .venv/bin/activate`, then try again."
    )


def _exit(exit_code: int, message: str) -> None:
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # Python would flush again at its end, and exit with another code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(exit_code)
