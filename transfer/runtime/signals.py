"""Interruption: a process that is asked to end does so in time and says so, whatever it is in the middle of."""

import atexit
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE = 5  # seconds to end in good order: one less than flows give a stage
MESSAGES = {
    signal.SIGHUP: "The terminal was closed.",
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Asked to end.",
}
_LOOK = 1.0  # seconds from one look at the parent to the next
_PARENT = os.getppid()  # before the imports that take seconds, in which it may be killed
_STANDARD_ERROR = 2


class Interrupted(KeyboardInterrupt):
    """The process was asked to end; the text is the message for the user."""

    def __init__(self, number: int) -> None:
        """Args: number, the signal's."""
        why = MESSAGES[signal.Signals(number)]
        super().__init__(f"{why} What was complete is kept; run the same command to go on.")
        self.exit_code = 128 + number  # what a shell says of who is ended by the signal itself


def handled_signals() -> list[signal.Signals]:
    """The signals that ask to end: Ctrl-C also behind a shell's `&`, a closed terminal not under `nohup`."""
    return [each for each in MESSAGES if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def exit_on_signals() -> None:
    """Have a request to end answered on the spot, while the process has nothing in hand: not yet, or no more.

    A stage that lost the DVC that started it is asked to end too, now and later: nobody would take its result, and the
    next `dvc repro` would run beside it. When Python itself is at its end, and has no ear for signals, the process has
    said all it had to.
    """
    heard = os.dup(_STANDARD_ERROR)  # TensorFlow's import silences the other
    for number in handled_signals():
        signal.signal(number, lambda number, _: exit_now(Interrupted(number), heard))
        atexit.register(signal.signal, number, signal.SIG_IGN)
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_end_with_dvc, args=(heard,), daemon=True).start()


@contextmanager
def handle_signals() -> Iterator[None]:
    """Have a request to end raise `Interrupted` in the block.

    If the process has not ended `GRACE` seconds later, as one in the middle of a long operation of TensorFlow's has
    not, it is left as if killed, but with its last words.
    """
    asked: Interrupted | None = None

    def interrupt(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked is None:
            asked = Interrupted(number)
            raise asked

    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    with ExitStack() as restored:
        restored.callback(os.close, sending)
        restored.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(sending, warn_on_full_buffer=False))
        for number in handled_signals():
            restored.callback(signal.signal, number, signal.signal(number, interrupt))
        threading.Thread(target=_watch, args=(receiving,), daemon=True).start()
        try:
            yield
        except BaseException as error:
            if asked is None or isinstance(error, SystemExit):
                raise
            restored.pop_all()  # to further requests the process is deaf, and the watch goes on
            raise asked from None  # whatever a library has made of it


def _watch(receiving: int) -> None:
    """Hear requests while the main thread may be busy, until no one can send any more."""
    asked, deadline = None, None
    while True:
        if select.select([receiving], [], [], deadline and max(0.0, deadline - time.monotonic()))[0]:
            number = os.read(receiving, 1)
            if not number:
                os.close(receiving)
                return
            if asked is None and number[0] in MESSAGES:
                asked, deadline = Interrupted(number[0]), time.monotonic() + GRACE
        if asked and deadline and time.monotonic() >= deadline:
            exit_now(asked)


def _end_with_dvc(descriptor: int) -> None:
    while os.getppid() == _PARENT:
        time.sleep(_LOOK)
    _write(descriptor, "The DVC that started this has ended.")
    os.kill(os.getpid(), signal.SIGTERM)


def exit_now(asked: Interrupted, descriptor: int = _STANDARD_ERROR) -> NoReturn:
    """End the process with its last words, waiting for nothing: neither for a thread nor for TensorFlow's own end."""
    _write(descriptor, str(asked))
    os._exit(asked.exit_code)


def _write(descriptor: int, words: str) -> None:
    with suppress(OSError):  # nobody may be left to read them
        os.write(descriptor, f"{words}\n".encode())
