"""Credentials of stages and DVC, from the environment or from Prefect's Secret blocks."""

import os
from typing import Any

from prefect.blocks.system import Secret

VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def block(variable: str) -> str:
    """Return the name of a variable's Secret block: kaggle-api-token for KAGGLE_API_TOKEN."""
    return variable.lower().replace("_", "-")


def read() -> dict[str, str]:
    """Return the credentials by variable; a variable of the environment takes precedence over its Secret block."""
    values = {variable: os.environ.get(variable) or load(block(variable)) for variable in VARIABLES}
    return {variable: value.strip() for variable, value in values.items() if value and value.strip()}


def load(name: str) -> str | None:
    """Return the value of a Secret block; None without it."""
    try:
        secret: Any = Secret.load(name, _sync=True)  # type: ignore[call-arg] # added by a decorator of Prefect's
    except ValueError:  # no such block
        return None
    return str(secret.get())
