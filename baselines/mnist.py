"""MNIST: the digits that Keras downloads, checked before they are used."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from baselines.digits import CLASSES, Digits
from transfer.network.backend import keras

EDGE = 28  # pixels
_TIMEOUT = 20.0  # seconds without a byte; Keras's download has no limit of its own
_REASON = 200  # characters


class UnavailableError(Exception):
    """MNIST is not to be had; the text says why, without a full stop."""


def load() -> tuple[Digits, Digits]:
    """Return MNIST's 60,000 training and 10,000 test digits; Keras downloads its 11 MB if it has no copy.

    The copy is `datasets/mnist.npz` in `~/.keras`, or in the folder that `KERAS_HOME` names. Keras compares the SHA-256
    of a copy and of a download with the one in its source, and unpickles nothing; the arrays are checked here.

    Raises:
        UnavailableError: there is no copy and no connection, or the file is not MNIST.
    """
    try:
        with _time_limit(), _quiet():
            train, test = keras.datasets.mnist.load_data()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - Keras raises `Exception` itself, and whatever its reader meets
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnavailableError("".join(filter(str.isprintable, reason))[:_REASON].rstrip(".")) from None
    return _checked(*train), _checked(*test)


def _checked(images: Any, labels: Any) -> Digits:
    """Return the digits if the arrays have MNIST's types, shapes and labels."""
    shapes, types = (images.shape, labels.shape), (images.dtype, labels.dtype)
    if labels.ndim != 1 or shapes[0] != (*shapes[1], EDGE, EDGE) or types != (np.uint8, np.uint8):
        raise UnavailableError(
            f"images must be bytes of shape (digits, {EDGE}, {EDGE}) with a label each, not {types[0]} and {types[1]} "
            f"of shapes {shapes[0]} and {shapes[1]}"
        )
    if not labels.size or labels.max() >= CLASSES:
        raise UnavailableError(
            f"there must be digits from 0 to {CLASSES - 1}, not {labels.size} up to {labels.max(initial=0)}"
        )
    return Digits(images, labels.astype(np.int64))


@contextmanager
def _time_limit() -> Iterator[None]:
    """Let connections that are opened in the block fail after `_TIMEOUT` seconds without a byte."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Keras's progress bar, which fills a log with lines, from standard output."""
    interactive = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        if interactive:
            keras.config.enable_interactive_logging()
