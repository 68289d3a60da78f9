"""Networks that are trained from nothing, from a weighted sum of the pixels to a deep residual network."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.runtime.params import Section

_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of batches to settle; two thousand photographs make forty an epoch
_SHIFT, _SCALE = -1.0, 1 / 127.5  # pixels from 0 to 255 become numbers from -1 to 1

Units = Annotated[int, Field(ge=1, le=4096)]
Filters = Annotated[int, Field(ge=1, le=1024)]


class Dense(Section):
    """Dense layers on all pixels; without a hidden one it is logistic regression."""

    hidden: list[Units] = Field(max_length=8, description="units of each hidden layer")


class Convolutional(Section):
    """Convolutions, each followed by a pooling that halves the edge, then a hidden layer."""

    filters: list[Filters] = Field(min_length=1, max_length=8, description="of each convolution")
    dense: Units
    batch_normalization: bool = Field(description="after each convolution")
    dropout: float = Field(ge=0, lt=1, description="before and after the hidden layer")


class Deep(Section):
    """Groups of pairs of convolutions, after He, Zhang, Ren and Sun, 2016, "Deep Residual Learning".

    Each group begins with a convolution that halves the edge and sets the width, which theirs does within a pair: so
    no skip needs a layer of its own, and with skips or without there are the same weights.
    """

    filters: list[Filters] = Field(min_length=1, max_length=8, description="of each group")
    pairs: int = Field(ge=1, le=100, description="of convolutions, in each group")
    skips: bool = Field(description="whether each pair's input is added to its output")


Settings = Dense | Convolutional | Deep


def build(settings: Settings, *, image_size: int, classes: int, seed: int) -> keras.Model:
    """Build a network.

    Args:
        settings: the layers.
        image_size: edge of the pictures it takes, pixels; these are RGB, 0 to 255.
        classes: two or more.
        seed: of the first weights and of dropout.

    Returns:
        A network with one sigmoid, the probability of the second class, for two classes, and a softmax for more.
    """
    picture = keras.Input((image_size, image_size, 3), dtype="uint8", name="picture")
    signal = keras.layers.Rescaling(_SCALE, offset=_SHIFT, name="preprocessing")(picture)
    match settings:
        case Dense():
            signal = _dense_layers(signal, settings, seed=seed)
        case Convolutional():
            signal = _convolutional_layers(signal, settings, seed=seed)
        case Deep():
            signal = _deep_layers(signal, settings, seed=seed)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    probabilities = _dense(units, activation, name="probabilities", seed=seed)(signal)
    return keras.Model(picture, probabilities, name="network")


def _dense_layers(signal: keras.KerasTensor, settings: Dense, *, seed: int) -> keras.KerasTensor:
    signal = keras.layers.Flatten(name="flatten")(signal)
    for number, units in enumerate(settings.hidden, start=1):
        signal = _dense(units, "relu", name=f"dense_{number}", seed=seed)(signal)
    return signal


def _convolutional_layers(signal: keras.KerasTensor, settings: Convolutional, *, seed: int) -> keras.KerasTensor:
    for number, filters in enumerate(settings.filters, start=1):
        name = f"conv_{number}"
        signal = _convolution(filters, name=name, seed=seed, bias=not settings.batch_normalization)(signal)
        if settings.batch_normalization:
            signal = _normalization(name)(signal)
        signal = keras.layers.ReLU(name=f"{name}_relu")(signal)
        signal = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(signal)
    signal = keras.layers.Flatten(name="flatten")(signal)
    signal = _dropout(settings.dropout, name="dropout_1", seed=seed)(signal)
    signal = _dense(settings.dense, "relu", name="dense", seed=seed)(signal)
    return _dropout(settings.dropout, name="dropout_2", seed=seed)(signal)


def _deep_layers(signal: keras.KerasTensor, settings: Deep, *, seed: int) -> keras.KerasTensor:
    def normalized(signal: keras.KerasTensor, filters: int, *, name: str, strides: int = 1) -> keras.KerasTensor:
        signal = _convolution(filters, name=name, seed=seed, bias=False, strides=strides)(signal)
        return _normalization(name)(signal)

    for group, filters in enumerate(settings.filters, start=1):
        signal = normalized(signal, filters, name=f"group{group}", strides=2)
        signal = keras.layers.ReLU(name=f"group{group}_relu")(signal)
        for pair in range(1, settings.pairs + 1):
            name = f"group{group}_pair{pair}"
            before = signal
            signal = normalized(signal, filters, name=f"{name}_conv1")
            signal = keras.layers.ReLU(name=f"{name}_conv1_relu")(signal)
            signal = normalized(signal, filters, name=f"{name}_conv2")
            if settings.skips:
                signal = keras.layers.Add(name=f"{name}_skip")([before, signal])
            signal = keras.layers.ReLU(name=f"{name}_relu")(signal)
    return keras.layers.GlobalAveragePooling2D(name="average")(signal)


def _convolution(filters: int, *, name: str, seed: int, bias: bool, strides: int = 1) -> keras.layers.Conv2D:
    """A convolution without its activation; its first weights are those of He et al., 2015, for rectifiers."""
    return keras.layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=bias,
        kernel_initializer=keras.initializers.HeNormal(seed=_drawn(seed, name)),
        name=name,
    )


def _normalization(name: str) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_normalization")


def _dense(units: int, activation: str, *, name: str, seed: int) -> keras.layers.Dense:
    first: Callable[..., keras.Initializer] = (
        keras.initializers.HeNormal if activation == "relu" else keras.initializers.GlorotUniform
    )
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=first(seed=_drawn(seed, name)), name=name
    )


def _dropout(rate: float, *, name: str, seed: int) -> keras.layers.Dropout:
    return keras.layers.Dropout(rate, seed=_drawn(seed, name), name=name)


def _drawn(seed: int, name: str) -> int:
    return seeding.digest(seed, name) % 2**31
