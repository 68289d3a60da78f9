"""Paths, relative to the folder that holds dvc.yaml."""

import os
from pathlib import Path

from transfer.runtime.errors import ParamsError

WORKSPACE_CACHE = Path(".cache")
PARAMS = Path("params.yaml")
INBOX = Path("inbox")
CORRECTIONS = Path("corrections.csv")
ARTIFACTS = Path("artifacts")
USER_FOLDER = "DOGS_VS_CATS_USER_FOLDER"  # the variable that names the user's folder if a command works in another


def artifact(stage: str, *parts: str) -> Path:
    """Return the path of a stage's output: `artifacts/<stage>/...`."""
    return ARTIFACTS.joinpath(stage, *parts)


def displayed(path: Path) -> str:
    """Return a path for a message: relative to the user's folder, if the command works in another one."""
    folder = os.environ.get(USER_FOLDER)
    return os.path.relpath(path, folder) if folder else str(path)


def cache(*parts: str) -> Path:
    """Return a path below the folder that workspaces may share: `DOGS_VS_CATS_CACHE`, or `.cache/` if it is not set.

    Everything there can be deleted. A temporary workspace, in which `dvc exp run --queue` or `--temp` runs a stage, has
    the project's: it is below the project's folder, which is in `DVC_ROOT`, and a relative path starts there.

    Raises:
        ParamsError: the variable names the home of an unknown user.
    """
    folder = os.environ.get("DOGS_VS_CATS_CACHE")
    try:
        return _project() / Path(folder or WORKSPACE_CACHE).expanduser().joinpath(*parts)
    except RuntimeError:
        raise ParamsError(
            f"DOGS_VS_CATS_CACHE must name a folder. Received: {folder!r}, the home of an unknown user. "
            "Set it to another folder, or unset it."
        ) from None


def _project() -> Path:
    """Return the folder of the project: that of a temporary workspace of DVC, and otherwise the current folder."""
    root = Path(os.environ.get("DVC_ROOT", ""))
    is_temporary = root.is_absolute() and Path.cwd().is_relative_to(root.resolve() / ".dvc/tmp/exps")
    return root if is_temporary else Path()


def scratch(*parts: str) -> Path:
    """Return a path below this workspace's `.cache/`, where a killed stage left what it continues from."""
    return WORKSPACE_CACHE.joinpath(*parts)
