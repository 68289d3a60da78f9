"""The quick loop of `make check`: `pytest --quick` skips each test that starts a process, a server or a training run.

No list of slow tests is kept. A test is skipped at the moment in which it starts one of these, so what is reported as
passed has needed none of them.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

OPTION = "--quick"
EVENTS = {
    "subprocess.Popen": "a process",
    "os.fork": "a process",
    "os.forkpty": "a process",
    "os.posix_spawn": "a process",
    "os.system": "a process",
    "socket.bind": "a server",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--quick`."""
    parser.addoption(OPTION, action="store_true", help="skip tests that start a process, a server or a training run")


def pytest_configure(config: pytest.Config) -> None:
    """Watch what the tests of this process start, if the option is given."""
    if config.getoption(OPTION):
        config.addinivalue_line("filterwarnings", "ignore:(?s)Exception in thread .*SystemExit")
        config.pluginmanager.register(_Watch())


class _Watch:
    """Skips the running test when Python reports that it starts a process or a server, or Keras that it trains."""

    def __init__(self) -> None:
        self._testing = False
        signal.signal(signal.SIGUSR1, lambda *_: pytest.skip("starts something in a thread"))
        sys.addaudithook(self._audit)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Watch while a test runs, its fixtures included; pytest itself may start processes."""
        self._testing = True
        yield
        self._testing = False

    def pytest_collection_finish(self) -> None:
        """Have Keras report that a training run begins."""
        import keras  # noqa: PLC0415 - most runs of the tests do without it, or import it later

        def fit(*_: Any, **__: Any) -> None:
            pytest.skip("starts a training run")

        keras.Model.fit = fit

    def _audit(self, event: str, _: tuple[Any, ...]) -> None:
        if not self._testing or event not in EVENTS:
            return
        if threading.current_thread() is threading.main_thread():
            pytest.skip(f"starts {EVENTS[event]}")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        raise SystemExit  # ends the thread silently
