"""Keras and TensorFlow, started the way this project wants them; everything else takes them from here.

oneDNN is chosen before TensorFlow is imported: its convolutions are faster, and it is not TensorFlow's default on
every processor (`benchmarks/extraction.py` shows by how much).
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from standard error what TensorFlow's C++ says on import, before it looks at its own log level."""
    original, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(nowhere)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Keep Keras from importing what it takes along where it finds it: a third of its start.

    It wraps and draws with these, which nothing here asks it for. Later they can be imported as ever.
    """
    hidden = set(names) - set(sys.modules)
    modules: dict[str, Any] = sys.modules
    modules |= dict.fromkeys(hidden)  # None is how Python marks a module that cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


with _silence(), _without("matplotlib", "scipy", "sklearn"):
    import keras
    import tensorflow as tf

__all__ = ["keras", "tf"]
