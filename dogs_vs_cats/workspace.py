"""Workspace: find the project's folder, and run the project's modules there in child processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from flows import processes
from transfer.runtime import paths, signals
from transfer.runtime.errors import ParamsError

INSTALLED = Path(__file__).resolve().parents[1]  # the project whose `make install` made this command
_MARKS = ("dvc.yaml", "tasks/__main__.py")


def find(start: Path) -> Path | None:
    """Return the nearest folder, `start` or one above it, that holds the project; None if there is none."""
    folders = (start, *start.parents)
    return next((folder for folder in folders if all((folder / mark).is_file() for mark in _MARKS)), None)


def current() -> Path:
    """Return the project that the current folder belongs to.

    Raises:
        ParamsError: the current folder is outside of any project.
    """
    folder = find(Path.cwd())
    if folder is None:
        raise ParamsError(
            f"This command works in the project's folder, which has dvc.yaml and tasks/. Received: {Path.cwd()}. "
            "Change to the project's folder and try again."
        )
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for modules that run in the project's folder.

    Python finds modules there before installed ones, telemetry is off, and printed paths start from the user's folder.
    """
    variables = processes.environment() | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    variables.pop("PYTHONSAFEPATH", None)
    if folder != Path.cwd():
        variables.setdefault(paths.USER_FOLDER, str(Path.cwd()))
    return variables


def run(folder: Path, module: str, *arguments: str) -> int:
    """Run a module in the project's folder and wait for its end.

    Returns:
        Its exit code, or 128 and the number of the signal that ended it, as a shell reports it.
    """
    command, variables = _command(module, arguments), environment(folder)
    with _forwarded_signals() as (children, early):
        children.append(subprocess.Popen(command, cwd=folder, env=variables))  # noqa: S603 - no shell
        if early:
            children[0].terminate()
        code = children[0].wait()
    if early:
        return 128 + early[0]
    return code if code >= 0 else 128 - code


def replace(folder: Path, module: str, *arguments: str) -> NoReturn:
    """Run a module in the project's folder in the place of this process, so that signals and exit code are its own."""
    variables = environment(folder)
    os.chdir(folder)
    _execute(_command(module, arguments), variables)


def replace_here(folder: Path, module: str, *arguments: str) -> NoReturn:
    """Run a module of a project in the current folder, in the place of this process.

    Only the project's modules are found by its imports, not files of the current folder.
    """
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    _execute([sys.executable, "-P", *_command(module, arguments)[1:]], processes.environment() | {"PYTHONPATH": path})


def _command(module: str, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _execute(command: list[str], variables: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, variables)  # noqa: S606 - no shell, and the project's own modules


@contextmanager
def _forwarded_signals() -> Iterator[tuple[list["subprocess.Popen[bytes]"], list[int]]]:
    """Forward SIGTERM and SIGHUP to a child process during the block; Ctrl-C reaches it without help.

    Yields:
        A list to add the child to, and one of the signals that arrive before, which the child may not have received.
        A signal that this process ignores is ignored by both.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if not children:
            early.append(number)
        elif number != signal.SIGINT:
            children[0].send_signal(number)

    numbers = [number for number in signals.handled_signals() if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield children, early
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
