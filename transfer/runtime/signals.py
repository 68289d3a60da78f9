"""Signals: a stage exits within seconds of SIGINT, SIGTERM or SIGHUP, or of the end of the DVC that started it."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 5  # seconds to clean up: one less than flows give a stage
MESSAGES = {signal.SIGHUP: "The terminal was closed.", signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated."}
_INTERVAL = 1.0  # seconds between two checks of the parent
_PARENT = os.getppid()  # read before imports that take seconds, during which the parent may end


class Interrupted(KeyboardInterrupt):
    """A signal ends the process; the text is the message for the user, the exit code that of a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{MESSAGES[signal.Signals(number)]} Completed work is kept; run the same command to go on.")
        self.exit_code = 128 + number


def handled_signals() -> list[signal.Signals]:
    """Return the signals that end a process: SIGINT even after a shell's `&`, SIGHUP unless under `nohup`."""
    return [number for number in MESSAGES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def handle_signals() -> Iterator[None]:
    """Raise `Interrupted` in the block on the first signal, then exit; ignore later signals, also after the block."""
    numbers, stderr, (reading, writing) = handled_signals(), os.dup(2), os.pipe()  # imports redirect 2
    interrupted: list[Interrupted] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if any("importlib" in caller.f_code.co_filename for caller, _ in traceback.walk_stack(frame)):
            _exit(Interrupted(number), stderr)  # an exception while TensorFlow is imported would abort the process
        if not interrupted:
            interrupted.append(Interrupted(number))
            raise interrupted[0]

    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_exit_after_grace, args=(reading, stderr), daemon=True).start()
    if "DVC_STAGE" in os.environ:  # without its DVC a stage would run in parallel to the next `dvc repro`
        threading.Thread(target=_watch_parent, args=(stderr,), daemon=True).start()
    try:
        for number in numbers:
            signal.signal(number, interrupt)
        yield
    except BaseException as error:
        if interrupted and not isinstance(error, SystemExit):  # a library may have replaced the exception
            _exit(interrupted[0], stderr)
        raise
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(writing)  # so that no thread waits any longer for a signal to exit after


def _exit_after_grace(reading: int, stderr: int) -> None:  # in native code Python runs no handler
    while (received := os.read(reading, 1)) and received[0] not in MESSAGES:
        pass  # the signal of a library
    if received:
        time.sleep(GRACE)
        _exit(Interrupted(received[0]), stderr)
    os.close(reading)


def _watch_parent(stderr: int) -> None:
    while os.getppid() == _PARENT:
        time.sleep(_INTERVAL)
    with suppress(OSError):
        os.write(stderr, b"The DVC that started this stage has ended.\n")
    os.kill(os.getpid(), signal.SIGTERM)


def _exit(interrupted: Interrupted, stderr: int) -> None:
    with suppress(OSError):  # the reader may have ended
        os.write(stderr, f"{interrupted}\n".encode())
    os._exit(interrupted.exit_code)  # safe, as files are written atomically
