"""Networks that are trained from scratch, from logistic regression on pixels to a deep residual network."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.runtime.params import Section

# Keras's default of 0.99 needs hundreds of batches to settle; two thousand photographs make forty batches per epoch.
_MOMENTUM = 0.9
_OFFSET, _SCALE = -1.0, 1 / 127.5  # map pixels from [0, 255] to [-1, 1]
_INK_SCALE = 1 / 255  # empty paper stays 0, as is the padding of convolutions: no edge around a digit

Units = Annotated[int, Field(ge=1, le=4096)]
Filters = Annotated[int, Field(ge=1, le=1024)]


class Dense(Section):
    """The settings of dense layers on all pixels; without a hidden layer, of logistic regression."""

    hidden: list[Units] = Field(max_length=8, description="units of each hidden layer")


class Convolutional(Section):
    """The settings of convolutions, each followed by pooling that halves the edge, and of a hidden dense layer."""

    filters: list[Filters] = Field(min_length=1, max_length=8, description="filters of each convolution")
    dense: Units
    batch_normalization: bool = Field(description="after each convolution")
    dropout: float = Field(ge=0, lt=1, description="before and after the hidden layer")


class Pooled(Section):
    """The settings of convolutions of which only the largest outputs over the whole image are kept.

    So a response counts the same wherever it occurs (global max pooling; Oquab, Bottou, Laptev and Sivic, 2015). With
    pooling between the convolutions this is exact only for moves by whole steps of the pooling.
    """

    filters: list[Filters] = Field(min_length=1, max_length=8, description="filters of each convolution")
    pooling: bool = Field(description="between convolutions, which halves the edge")
    dense: Units


class Deep(Section):
    """The settings of groups of pairs of convolutions (He, Zhang, Ren and Sun, 2016, "Deep Residual Learning").

    Unlike in that paper, each group starts with a convolution of its own that halves the edge and sets the number of
    filters. So no skip connection needs a layer, and the network has the same weights with and without skips.
    """

    filters: list[Filters] = Field(min_length=1, max_length=8, description="filters of each group")
    pairs: int = Field(ge=1, le=100, description="pairs of convolutions in each group")
    skips: bool = Field(description="whether each pair's input is added to its output")


Settings = Dense | Convolutional | Pooled | Deep


def build(settings: Settings, *, image_size: int, classes: int, seed: int, channels: int = 3) -> keras.Model:
    """Build a network.

    Args:
        settings: settings of the layers.
        image_size: edge of the input images, in pixels.
        classes: number of classes, at least 2.
        seed: seed of the initial weights and of dropout.
        channels: 3 for RGB, 1 for ink on paper, both from 0 to 255.

    Returns:
        A network that ends in one sigmoid, the probability of the second class, for two classes, and in a softmax for
        more.
    """
    image = keras.Input((image_size, image_size, channels), dtype="uint8", name="picture")
    scale, offset = (_INK_SCALE, 0.0) if channels == 1 else (_SCALE, _OFFSET)
    tensor = keras.layers.Rescaling(scale, offset=offset, name="preprocessing")(image)
    match settings:
        case Dense():
            tensor = _dense_layers(tensor, settings, seed=seed)
        case Convolutional():
            tensor = _convolutional_layers(tensor, settings, seed=seed)
        case Pooled():
            tensor = _pooled_layers(tensor, settings, seed=seed)
        case Deep():
            tensor = _deep_layers(tensor, settings, seed=seed)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    probabilities = _dense(units, activation, name="probabilities", seed=seed)(tensor)
    return keras.Model(image, probabilities, name="network")


def _dense_layers(tensor: keras.KerasTensor, settings: Dense, *, seed: int) -> keras.KerasTensor:
    tensor = keras.layers.Flatten(name="flatten")(tensor)
    for number, units in enumerate(settings.hidden, start=1):
        tensor = _dense(units, "relu", name=f"dense_{number}", seed=seed)(tensor)
    return tensor


def _convolutional_layers(tensor: keras.KerasTensor, settings: Convolutional, *, seed: int) -> keras.KerasTensor:
    for number, filters in enumerate(settings.filters, start=1):
        name = f"conv_{number}"
        tensor = _convolution(filters, name=name, seed=seed, bias=not settings.batch_normalization)(tensor)
        if settings.batch_normalization:
            tensor = _normalization(name)(tensor)
        tensor = keras.layers.ReLU(name=f"{name}_relu")(tensor)
        tensor = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(tensor)
    tensor = keras.layers.Flatten(name="flatten")(tensor)
    tensor = _dropout(settings.dropout, name="dropout_1", seed=seed)(tensor)
    tensor = _dense(settings.dense, "relu", name="dense", seed=seed)(tensor)
    return _dropout(settings.dropout, name="dropout_2", seed=seed)(tensor)


def _pooled_layers(tensor: keras.KerasTensor, settings: Pooled, *, seed: int) -> keras.KerasTensor:
    for number, filters in enumerate(settings.filters, start=1):
        if settings.pooling and number > 1:
            tensor = keras.layers.MaxPooling2D(2, name=f"conv_{number - 1}_pool")(tensor)
        tensor = _convolution(filters, name=f"conv_{number}", seed=seed, bias=True)(tensor)
        tensor = keras.layers.ReLU(name=f"conv_{number}_relu")(tensor)
    tensor = keras.layers.GlobalMaxPooling2D(name="largest")(tensor)
    return _dense(settings.dense, "relu", name="dense", seed=seed)(tensor)


def _deep_layers(tensor: keras.KerasTensor, settings: Deep, *, seed: int) -> keras.KerasTensor:
    def normalized_convolution(
        tensor: keras.KerasTensor, filters: int, *, name: str, strides: int = 1
    ) -> keras.KerasTensor:
        tensor = _convolution(filters, name=name, seed=seed, bias=False, strides=strides)(tensor)
        return _normalization(name)(tensor)

    for group, filters in enumerate(settings.filters, start=1):
        tensor = normalized_convolution(tensor, filters, name=f"group{group}", strides=2)
        tensor = keras.layers.ReLU(name=f"group{group}_relu")(tensor)
        for pair in range(1, settings.pairs + 1):
            name = f"group{group}_pair{pair}"
            shortcut = tensor
            tensor = normalized_convolution(tensor, filters, name=f"{name}_conv1")
            tensor = keras.layers.ReLU(name=f"{name}_conv1_relu")(tensor)
            tensor = normalized_convolution(tensor, filters, name=f"{name}_conv2")
            if settings.skips:
                tensor = keras.layers.Add(name=f"{name}_skip")([shortcut, tensor])
            tensor = keras.layers.ReLU(name=f"{name}_relu")(tensor)
    return keras.layers.GlobalAveragePooling2D(name="average")(tensor)


def _convolution(filters: int, *, name: str, seed: int, bias: bool, strides: int = 1) -> keras.layers.Conv2D:
    """Return a convolution without activation, initialized for a ReLU (He et al., 2015)."""
    return keras.layers.Conv2D(
        filters,
        3,
        strides=strides,
        padding="same",
        use_bias=bias,
        kernel_initializer=keras.initializers.HeNormal(seed=_layer_seed(seed, name)),
        name=name,
    )


def _normalization(name: str) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_normalization")


def _dense(units: int, activation: str, *, name: str, seed: int) -> keras.layers.Dense:
    initializer: Callable[..., keras.Initializer] = (
        keras.initializers.HeNormal if activation == "relu" else keras.initializers.GlorotUniform
    )
    return keras.layers.Dense(
        units, activation=activation, kernel_initializer=initializer(seed=_layer_seed(seed, name)), name=name
    )


def _dropout(rate: float, *, name: str, seed: int) -> keras.layers.Dropout:
    return keras.layers.Dropout(rate, seed=_layer_seed(seed, name), name=name)


def _layer_seed(seed: int, name: str) -> int:
    return seeding.digest(seed, name) % 2**31
