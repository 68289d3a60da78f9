"""Prefect's settings: end a command in one line where one of them is not valid.

Prefect reads its settings, from variables, `prefect.toml` and profiles, as soon as it is imported.
"""

import sys
from types import TracebackType

from transfer.runtime.errors import ParamsError


def report_errors() -> None:
    """Report settings that are not valid in one line instead of a traceback, in a process that `python -m` starts."""
    if sys.argv[:1] == ["-m"]:  # see `stage.require_packages`
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    message = _message(error)
    if message is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print(message, file=sys.stderr)
    sys.exit(ParamsError.exit_code)


def _message(error: BaseException) -> str | None:
    """Return the message for an error of pydantic in Prefect's settings; None for any other error."""
    received = _received(error)
    if received is None:
        return None
    return (
        "Prefect's settings, in variables PREFECT_..., prefect.toml or its active profile, must be valid. "
        f"Received: {received}. Correct the setting or remove it."
    )


def _received(error: BaseException) -> str | None:
    """Return what is wrong, without the values, as one may be a secret."""
    title = str(getattr(error, "title", ""))
    match type(error).__name__:
        case "ValidationError" if title.endswith("Settings"):
            found = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]  # type: ignore[attr-defined]
            return f"for {title}, {'; '.join(found)}"
        case "SettingsError":
            return str(error).rstrip(".")
    return None
