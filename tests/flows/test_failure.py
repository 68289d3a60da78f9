import logging

from prefect.states import Completed, Failed

from flows import failure


def test_a_failed_run_has_its_message_and_exit_code() -> None:
    """The state of a failed run keeps both; a completed run has 0, a run that failed otherwise 1."""
    state = failure.failed("`train_head` failed.", 78)
    assert (state.name, state.message) == ("Failed", "`train_head` failed.")
    assert failure.exit_code(state) == 78
    assert failure.exit_code(Completed()) == 0
    assert failure.exit_code(Failed(data=ValueError("another"))) == 1


def test_the_traceback_of_a_failed_run_is_not_logged() -> None:
    """Prefect's loggers drop the record that repeats the message as a traceback, and keep those of other errors."""
    failure.failed("message", 1)
    logger = logging.getLogger("prefect.flow_runs")

    def record(error: Exception) -> logging.LogRecord:
        return logger.makeRecord(logger.name, logging.ERROR, "", 0, "failed", (), (type(error), error, None))

    assert not logger.filter(record(failure.FlowFailedError("message", 1)))
    assert logger.filter(record(ValueError("another")))
