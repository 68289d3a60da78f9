"""Credentials: what stages and DVC need to be let in, from the environment or from Prefect's Secret blocks."""

import os
from typing import Any

from prefect.blocks.system import Secret

VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def block(variable: str) -> str:
    """The name of the Secret block that stands for a variable: KAGGLE_API_TOKEN is kaggle-api-token."""
    return variable.lower().replace("_", "-")


def read() -> dict[str, str]:
    """The variables that are set or have a block; the environment goes before the block."""
    found = {variable: os.environ.get(variable) or _loaded(block(variable)) for variable in VARIABLES}
    return {variable: value.strip() for variable, value in found.items() if value and value.strip()}


def _loaded(name: str) -> str | None:
    try:
        secret: Any = Secret.load(name, _sync=True)  # type: ignore[call-arg] # a decorator of Prefect's adds it
    except ValueError:  # no such block
        return None
    return str(secret.get())
