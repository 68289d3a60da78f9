"""Preconditions: check in what state Git, the artifacts and the inbox are, before DVC runs or removes anything.

`python -m flows.preconditions` checks them, and removes from DVC's lock file the entries of processes that have ended.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dvc.exceptions import NotDvcRepoError
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.scm import SCMError

from flows import workspace
from transfer.images import corrections
from transfer.runtime import paths
from transfer.runtime.errors import DataError, ParamsError, StageError
from transfer.sources import inbox

_MERGED = (Path(".dvc/config"), Path("dvc.yaml"), Path("dvc.lock"), paths.PARAMS, paths.CORRECTIONS)
_MARKERS = ("<<<<<<< ", ">>>>>>> ")


def check() -> None:
    """Check the workspace in the current folder; a missing corrections.csv is written without corrections.

    Raises:
        ParamsError: DVC is to use Git and there is no repository, or a folder of artifacts is a link.
        DataError: a merge left conflicts in a file that DVC reads, or the inbox has something that DVC cannot hash.
    """
    _check_merge()
    _check_git()
    _check_folders()
    inbox.check(paths.INBOX)
    if not paths.CORRECTIONS.exists():
        corrections.write(paths.CORRECTIONS, [])  # DVC knows no dependency that may be missing


def _check_git() -> None:
    try:
        with suppress(NotDvcRepoError), Repo(os.curdir) as repo:
            _ = repo.scm
    except SCMError:
        raise ParamsError(
            f"The project must be in a Git repository, as DVC uses Git. Received: `{Path.cwd()}`, which is in none. "
            "Run `git init` once, then run again. To save runs as experiments, run `git add . && git commit -m Start`."
        ) from None


def _check_folders() -> None:
    """Check that no folder of artifacts is a link: DVC finds that out only after a stage has run."""
    for folder in (paths.ARTIFACTS, *paths.ARTIFACTS.glob("*")):
        if folder.is_symlink() and (folder.is_dir() or not folder.exists()):
            raise ParamsError(
                f"`{folder}` must be a folder, as DVC follows no links. Received: a link to `{folder.readlink()}`. "
                "Replace the link by a folder. To keep all versions of the data on another disk, run "
                "`dvc cache dir --local FOLDER`."
            )


def _check_merge() -> None:
    for file in filter(Path.is_file, _MERGED):
        with file.open(encoding="utf-8", errors="replace") as lines:
            if any(line.startswith(_MARKERS) for line in lines):
                raise DataError(_conflict(file))


def _conflict(file: Path) -> str:
    remedy = "Edit it and choose the values"
    if file.name == "dvc.lock":
        remedy = f"Run `git checkout --ours {file}` (`--theirs` for the other side)"
    return f"`{file}` must have no conflicts of a merge. Received: a line with `<<<<<<<`. {remedy}, then run again."


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the workspace and remove the entries of ended processes; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.preconditions", description="Check the workspace for DVC.")
    parser.parse_args(arguments)
    try:
        check()
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with suppress(LockError):  # another DVC is writing the file
        workspace.remove_dead_holders()
    return 0


if __name__ == "__main__":
    sys.exit(main())
