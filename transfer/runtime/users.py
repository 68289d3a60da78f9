"""Users: a user id without a name or a home, as containers have it, which DVC and other libraries need."""

import getpass
import os
from pathlib import Path

from transfer.runtime.errors import AccessError


def check() -> None:
    """Check that the user of this process has a name and a home.

    Raises:
        AccessError: one of the two is missing.
    """
    try:
        getpass.getuser()
        Path.home()
    except (KeyError, OSError, RuntimeError):
        raise AccessError(message()) from None


def is_user_error(error: Exception) -> bool:
    """Return whether a library failed because the user has no name or no home."""
    if isinstance(error, KeyError):
        return "getpwuid" in str(error)
    return isinstance(error, RuntimeError | OSError) and str(error).startswith(
        ("Could not determine home directory", "No username set in the environment")
    )


def message() -> str:
    """Return a line that names the user id and the variables to set."""
    return (
        f"The user must have a name and a home folder. Received: user id {os.getuid()}, which is in no list of users. "
        "Set both, for example `export USER=me HOME=/tmp`, then run again."
    )
