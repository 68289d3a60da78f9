"""Heads: small networks from the base's last feature map to class probabilities."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.runtime.params import Section

_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of batches to settle; 2,000 photographs make 40 batches an epoch

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


def build(settings: Params, *, feature_map: tuple[int, int, int], classes: int, seed: int) -> keras.Model:
    """Build a head.

    Args:
        settings: the layers.
        feature_map: shape (height, width, channels) of the input.
        classes: number of classes, two or more.
        seed: of the initial weights and of dropout.

    Returns:
        A network that ends in one sigmoid, the probability of the second class, for two classes, and in a softmax for
        more.
    """
    features = keras.Input(feature_map, name="feature_map")
    signal = _pooled(features, settings.pooling)
    if settings.batch_normalization:
        signal = keras.layers.BatchNormalization(momentum=_MOMENTUM, name="batch_normalization")(signal)
    for number, units in enumerate(settings.dense, start=1):
        signal = _dropout(settings, number=number, seed=seed)(signal)
        signal = _dense(settings, units, settings.activation, name=f"dense_{number}", seed=seed)(signal)
    signal = _dropout(settings, number=len(settings.dense) + 1, seed=seed)(signal)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    probabilities = _dense(settings, units, activation, name="probabilities", seed=seed)(signal)
    return keras.Model(features, probabilities, name="head")


def above_pooling(head: keras.Model, pooling: Pooling) -> keras.Model:
    """Return the part of a head above its pooling, which takes the output of `pool` and shares the head's layers."""
    return keras.Model(head.get_layer(pooling).output, head.output, name="above_pooling")


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


def _dense(settings: Params, units: int, activation: str, *, name: str, seed: int) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seeding.digest(seed, name) % 2**31),
        kernel_regularizer=keras.regularizers.L1L2(settings.l1, settings.l2) if settings.l1 or settings.l2 else None,
        name=name,
    )


def _dropout(settings: Params, *, number: int, seed: int) -> keras.layers.Dropout:
    name = f"dropout_{number}"
    return keras.layers.Dropout(settings.dropout, seed=seeding.digest(seed, name) % 2**31, name=name)
