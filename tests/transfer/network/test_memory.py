import json
from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.network import memory, saving
from transfer.network.backend import keras
from transfer.runtime.errors import DataError


def wide_convolution() -> keras.Model:
    """Return a convolution whose output takes 17 GB, from 16 thousand weights."""
    return keras.Sequential([keras.Input((1024, 1024, 3)), keras.layers.Conv2D(4096, 1)])


def doubled_twelve_times() -> keras.Model:
    """Return a network that concatenates its signal with itself, from an image of half a million pixels."""
    picture = signal = keras.Input((700, 700, 3))
    for _ in range(12):
        signal = keras.layers.Concatenate()([signal, signal])
    return keras.Model(picture, signal)


def many_layers() -> keras.Model:
    """Return a network whose layers are of a usual size each, but are too many together."""
    picture = signal = keras.Input((512, 512, 64))
    for _ in range(70):
        signal = keras.layers.ReLU()(signal)
    return keras.Model(picture, signal)


def long_sequence() -> keras.Model:
    """Return a Sequential of so many layers that Keras takes seconds to build it, and minutes for a few times more."""
    return keras.Sequential([keras.Input((2,)), *(keras.layers.ReLU() for _ in range(78))])


def large_pool() -> keras.Model:
    """Return a pooling layer without weights, that compares 800 billion numbers."""
    return keras.Sequential([keras.Input((1024, 1024, 3)), keras.layers.MaxPooling2D(900, strides=1, padding="same")])


def large_kernel() -> keras.Model:
    """Return a convolution whose kernel is as large as the picture, and which returns one number for each pixel."""
    return keras.Sequential([keras.Input((700, 700, 3)), keras.layers.Conv2D(1, 900, padding="same")])


def any_size() -> keras.Model:
    """Return a network for images of any size."""
    return keras.Sequential([keras.Input((None, None, 3)), keras.layers.ReLU()])


def nested_models() -> keras.Model:
    """Return 13 models within each other, each of which calls the next one twice."""
    model: keras.Layer = keras.layers.ReLU()
    for _ in range(13):
        signal = keras.Input((2,))
        model = keras.Model(signal, model(model(signal)))
    return model


@pytest.mark.reliability(
    "tampered",
    "a model whose layers return more than any memory holds: wide, doubled, deep or nested",
    "rejected before anything is computed",
)
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (wide_convolution, r"its layers return 8\.\d+e\+09 numbers for a photograph, more than 1\.07e\+09"),
        (doubled_twelve_times, r"its layers return 1\.\d+e\+10 numbers"),
        (many_layers, r"its layers return 1\.\d+e\+09 numbers"),
        (nested_models, r"Keras would call its layers [\d.e+]+ times to build it, more than 6,000 times"),
        (long_sequence, r"Keras would call its layers [\d.e+]+ times"),
        (large_pool, r"its layers compute 2\.\d+e\+12 products for a photograph, more than 1\.1e\+12"),
        (large_kernel, r"its layers compute 1\.\d+e\+12 products"),
        (any_size, "its input must have a fixed size"),
    ],
)
def test_a_network_that_needs_too_much_memory_is_rejected(
    tmp_path: Path, build: Callable[[], keras.Model], reason: str
) -> None:
    """Outputs are measured by their shapes, however few weights a network has."""
    build().save(tmp_path / "model.keras")
    with pytest.raises(DataError, match=f"not a network this project saved: {reason}"):
        saving.load(tmp_path / "model.keras")


def test_weights_count_once_however_often_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is called twice, as in a network that mirrors, reads the weights that are stored, without a copy."""
    signal, layer = keras.Input((100,)), keras.layers.Dense(100)
    network = keras.Model(signal, keras.layers.Add()([layer(signal), layer(keras.layers.ReLU()(signal))]))
    monkeypatch.setattr(memory, "MAX_OUTPUTS", 1000)
    memory.check_sizes(json.loads(network.to_json()), stored=network.count_params())
