"""Status: the stages of dvc.yaml, whether each is up to date, and what each does."""

import ast
import contextlib
import sys
from pathlib import Path

from dvc.exceptions import DvcException
from tabulate import tabulate

from flows import graph, remote, workspace
from transfer.runtime.errors import LockedError, ParamsError

_WIDTHS = (None, 36, 44)  # characters of the columns, so that a line has at most 100


def table(folder: Path) -> str:
    """Return a line for each stage: its name, its state and what it does.

    Raises:
        LockedError: another process of DVC is at work.
        ParamsError: DVC cannot read dvc.yaml, dvc.lock or params.yaml.
    """
    with contextlib.chdir(folder):
        try:
            stages = graph.read()
            due = graph.changes(stages, lambda line: print(line, file=sys.stderr))
        except workspace.WorkspaceBusyError as error:
            raise LockedError(str(error)) from None
        except DvcException as error:
            raise ParamsError(remote.one_line(error)) from None
        rows = [[stage, due.get(stage, "up to date"), description(Path("tasks", f"{stage}.py"))] for stage in stages]
    return tabulate(rows, ["stage", "state", "what it does"], tablefmt="plain", maxcolwidths=list(_WIDTHS))


def description(module: Path) -> str:
    """Return the first line of a module's docstring; empty if there is no such module."""
    if not module.is_file():
        return ""
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n")[0]
