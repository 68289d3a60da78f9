"""Hints: what to type next, in the words of the folder in which the user stands."""

import os
import shlex
import subprocess
from pathlib import Path

from transfer.runtime.errors import DataError

_KEPT = ("params.yaml", "corrections.csv", "dvc.lock", "artifacts")


def keep(folder: Path) -> str:
    """Return how to keep the results of a run, or nothing if Git has them already or does not know the folder."""
    status = subprocess.run(  # noqa: S603 - no shell, and the project's own arguments
        ["git", "status", "--porcelain", "--", *_KEPT],  # noqa: S607 - the user's Git
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if status.returncode or not status.stdout:
        return ""
    files = " ".join(shlex.quote(os.path.relpath(folder / name)) for name in _KEPT)
    commit = f"\nTo keep this result:\n  git add {files} && git commit -m 'A model'\n"
    if any(line.startswith("??") for line in status.stdout.splitlines()):
        return commit  # an experiment would lack files that Git does not track yet
    graph = shlex.quote(os.path.relpath(folder / "dvc.yaml"))
    return f"{commit}or under a name, as an experiment:\n  dvc exp save {graph} --name NAME\n"


def too_early(reason: str) -> DataError:
    """Return the error of a command that needs the results of a run, before there are any."""
    return DataError(f"{reason} Received: no results. Run `dogs-vs-cats run` first.")
