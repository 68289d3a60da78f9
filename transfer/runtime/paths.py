"""Where things lie, relative to the folder that holds dvc.yaml."""

import os
from pathlib import Path

from transfer.runtime.errors import ParamsError

WORKSPACE_CACHE = Path(".cache")
PARAMS = Path("params.yaml")
INBOX = Path("inbox")
ARTIFACTS = Path("artifacts")


def artifact(stage: str, *parts: str) -> Path:
    """Path of something `stage` made: `artifacts/<stage>/...`."""
    return ARTIFACTS.joinpath(stage, *parts)


def cache(*parts: str) -> Path:
    """Path of what workspaces may share, safe to delete: below `DOGS_VS_CATS_CACHE`, or `.cache/` without it.

    Raises:
        ParamsError: the variable names the home of somebody who is unknown here.
    """
    named = os.environ.get("DOGS_VS_CATS_CACHE")
    try:
        return Path(named or WORKSPACE_CACHE).expanduser().joinpath(*parts)
    except RuntimeError:
        raise ParamsError(
            f"DOGS_VS_CATS_CACHE must name a folder. Received: {named!r}, the home of nobody known here. "
            "Set it to another, or unset it."
        ) from None


def scratch(*parts: str) -> Path:
    """Path of what a stage needs to go on where it was killed, of this workspace alone and safe to delete."""
    return WORKSPACE_CACHE.joinpath(*parts)
