"""Keras and TensorFlow, imported with the project's settings; all other modules import them from here.

oneDNN must be switched on before TensorFlow is imported. It is not the default on every processor, and its convolutions
are faster (`benchmarks/extraction.py` measures by how much).
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Suppress what TensorFlow's C++ code writes to standard error, as on import, before it reads its log level."""
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(null)


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Hide modules that Keras imports if it finds them, which takes a third of its import time.

    Keras uses them for wrappers and plots that this project does not use. After the block they can be imported.
    """
    hidden = set(names) - set(sys.modules)
    modules: dict[str, Any] = sys.modules
    modules |= dict.fromkeys(hidden)  # None marks a module that cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage in the block: an import makes little, and most of its objects stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


with quiet_stderr(), _uncollected(), _hidden("matplotlib", "scipy", "sklearn"):
    import keras
    import tensorflow as tf

__all__ = ["keras", "quiet_stderr", "tf"]
