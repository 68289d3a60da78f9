"""Upstream: what the main pipeline has made, seen from the ladder's folder, in which its stages run."""

from pathlib import Path

from transfer.runtime import paths


def artifact(stage: str, *parts: str) -> Path:
    """Path of something that a stage of the main pipeline made."""
    return Path("..") / paths.artifact(stage, *parts)
