"""Heads: small networks from the base's last feature map to class probabilities."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.runtime.params import Section

MAX_NUMBER = 12  # of heads: with more and deeper ones, `memory.MAX_CALLS` would reject a network of the parameters

_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of batches to settle; 2,000 photographs make 40 batches an epoch
_AVERAGED = "log_odds"  # the layer that averages several heads

Pooling = Literal["average", "max", "average_max", "flatten"]


class Params(Section):
    """The layers of a head, from the feature map to the last hidden layer."""

    pooling: Pooling
    batch_normalization: bool = Field(description="normalize the pooled features")
    dense: list[Annotated[int, Field(ge=1, le=4096)]] = Field(max_length=8, description="units of each hidden layer")
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"]
    dropout: float = Field(ge=0, lt=1, description="before each dense layer")
    l1: float = Field(ge=0)
    l2: float = Field(ge=0)


def build(
    settings: Params, *, feature_map: tuple[int, int, int], classes: int, seed: int, number: int = 1
) -> keras.Model:
    """Build a network of one head, or of several whose log odds (logits, for more than two classes) are averaged.

    The heads have the same layers, and each its own initial weights and dropout: a small ensemble, whose members err in
    different ways (Lakshminarayanan, Pritzel and Blundell, 2017, "Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles"). A head does not depend on how many there are.

    Args:
        settings: the layers of each head.
        feature_map: shape (height, width, channels) of the input.
        classes: number of classes, two or more.
        seed: of the initial weights and of dropout.
        number: of heads, 1 to `MAX_NUMBER`.

    Returns:
        A network that ends in one sigmoid, the probability of the second class, for two classes, and in a softmax for
        more.
    """
    features = keras.Input(feature_map, name="feature_map")
    pooled = _pooled(features, settings.pooling)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    if number == 1:
        hidden = _hidden(pooled, settings, seed=seed)
        probabilities = _dense(settings, units, activation, name="probabilities", seed=seed)(hidden)
    else:
        log_odds = [_log_odds(pooled, settings, units, name=f"head_{each + 1}_", seed=seed) for each in range(number)]
        probabilities = keras.layers.Activation(activation, name="probabilities")(
            keras.layers.Average(name=_AVERAGED)(log_odds)
        )
    return keras.Model(features, probabilities, name="head")


def above_pooling(head: keras.Model, pooling: Pooling) -> keras.Model:
    """Return the part of a head above its pooling, which takes the output of `pool` and shares the head's layers.

    Returns:
        A network with the head's output; if there are several heads, with the log odds of each, shape (photographs,
        heads, units), by which each can be trained on its own.
    """
    output = head.output
    if isinstance(head.layers[-1], keras.layers.Activation):
        output = keras.ops.stack(head.get_layer(_AVERAGED).input, axis=1)
    return keras.Model(head.get_layer(pooling).output, output, name="above_pooling")


def divide_log_odds(head: keras.Model, temperature: float) -> None:
    """Divide a head's log odds, or logits, by a temperature, in place; its predictions stay the same, up to rounding.

    The weights of the last dense layers take the factor, so that the network keeps its layers.
    """
    for layer in head.layers:
        if isinstance(layer, keras.layers.Dense) and layer.name.endswith(("probabilities", "log_odds")):
            layer.set_weights([weights / np.float32(temperature) for weights in layer.get_weights()])


def pool(feature_map: NDArray[np.float16], pooling: Pooling) -> NDArray[np.float32]:
    """Apply a head's pooling, which has no weights, to one feature map of shape (height, width, channels)."""
    average: NDArray[np.float32] = feature_map.mean(axis=(0, 1), dtype=np.float32)
    maximum: NDArray[np.float32] = feature_map.max(axis=(0, 1)).astype(np.float32)
    match pooling:
        case "average":
            return average
        case "max":
            return maximum
        case "average_max":
            return np.concatenate([average, maximum])
        case "flatten":
            return feature_map.reshape(-1).astype(np.float32)


def _pooled(features: keras.KerasTensor, pooling: Pooling) -> keras.KerasTensor:
    average = keras.layers.GlobalAveragePooling2D(name="average")
    maximum = keras.layers.GlobalMaxPooling2D(name="max")
    match pooling:
        case "average":
            return average(features)
        case "max":
            return maximum(features)
        case "average_max":
            return keras.layers.Concatenate(name="average_max")([average(features), maximum(features)])
        case "flatten":
            return keras.layers.Flatten(name="flatten")(features)


def _log_odds(pooled: keras.KerasTensor, settings: Params, units: int, *, name: str, seed: int) -> keras.KerasTensor:
    hidden = _hidden(pooled, settings, seed=seed, prefix=name)
    return _dense(settings, units, "linear", name=f"{name}log_odds", seed=seed)(hidden)


def _hidden(signal: keras.KerasTensor, settings: Params, *, seed: int, prefix: str = "") -> keras.KerasTensor:
    """Apply a head's layers between its pooling and its last dense layer; their names and seeds have the prefix."""
    if settings.batch_normalization:
        signal = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{prefix}batch_normalization")(signal)
    for number, units in enumerate(settings.dense, start=1):
        signal = _dropout(settings, name=f"{prefix}dropout_{number}", seed=seed)(signal)
        signal = _dense(settings, units, settings.activation, name=f"{prefix}dense_{number}", seed=seed)(signal)
    return _dropout(settings, name=f"{prefix}dropout_{len(settings.dense) + 1}", seed=seed)(signal)


def _dense(settings: Params, units: int, activation: str, *, name: str, seed: int) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seeding.digest(seed, name) % 2**31),
        kernel_regularizer=keras.regularizers.L1L2(settings.l1, settings.l2) if settings.l1 or settings.l2 else None,
        name=name,
    )


def _dropout(settings: Params, *, name: str, seed: int) -> keras.layers.Dropout:
    return keras.layers.Dropout(settings.dropout, seed=seeding.digest(seed, name) % 2**31, name=name)
