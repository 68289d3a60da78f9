"""Where things lie, relative to the folder that holds dvc.yaml."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
INBOX = Path("inbox")
ARTIFACTS = Path("artifacts")


def artifact(stage: str, *parts: str) -> Path:
    """Path of something `stage` made: `artifacts/<stage>/...`."""
    return ARTIFACTS.joinpath(stage, *parts)


def cache(*parts: str) -> Path:
    """Path of memo or scratch, safe to delete: below `DOGS_VS_CATS_CACHE`, or `.cache/` without it."""
    return Path(os.environ.get("DOGS_VS_CATS_CACHE") or ".cache").expanduser().joinpath(*parts)
