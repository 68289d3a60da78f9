"""Failure: the state of a flow run that failed, with an exit code and without a traceback."""

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed


class FlowFailedError(Exception):
    """A flow run failed; the text is the state's message."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _WithoutTraceback(logging.Filter):
    """Drop a record with the traceback of a `FlowFailedError`: the record before it has the state's message."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], FlowFailedError))


_FILTER = _WithoutTraceback()
_LOGGERS = ("prefect.flow_runs", "prefect.engine")  # they log the error of a deployment's run that failed


def failed(message: str, exit_code: int) -> State[Any]:
    """Return the state of a flow run that failed."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    return Failed(message=message, data=FlowFailedError(message, exit_code))


def exit_code(state: State[Any]) -> int:
    """Return the exit code of a flow run that has ended; 1 if it failed in another way than by `failed`."""
    if state.is_completed():
        return 0
    error = state.result(raise_on_failure=False)
    return error.exit_code if isinstance(error, FlowFailedError) else 1
