"""Heads: the small network that turns the base's last feature map into class probabilities."""

from typing import Literal

from pydantic import Field

from transfer import chance
from transfer.backend import keras
from transfer.params import Section

_POOLINGS = {
    "average": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "flatten": keras.layers.Flatten,
}


class Params(Section):
    """How a head is built, from the feature map to the last hidden layer."""

    pooling: Literal["average", "max", "flatten"]
    batch_normalization: bool = Field(description="of the pooled features")
    dense: list[int] = Field(max_length=8, description="units of each hidden layer")
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"]
    dropout: float = Field(ge=0, lt=1, description="before each dense layer")
    l1: float = Field(ge=0)
    l2: float = Field(ge=0)


def build(settings: Params, *, feature_map: tuple[int, int, int], classes: int, seed: int) -> keras.Sequential:
    """Build a head.

    Args:
        settings: the layers.
        feature_map: shape (height, width, channels) of what it takes.
        classes: two or more.
        seed: of the first weights and of dropout.

    Returns:
        A network with one sigmoid, the probability of the second class, for two classes, and a softmax for more.
    """
    hidden = [
        layer
        for number, units in enumerate(settings.dense, start=1)
        for layer in (
            _dropout(settings, number=number, seed=seed),
            _dense(settings, units, settings.activation, name=f"dense_{number}", seed=seed),
        )
    ]
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return keras.Sequential(
        [
            keras.Input(feature_map),
            _POOLINGS[settings.pooling](name="pooling"),
            *([keras.layers.BatchNormalization(name="batch_normalization")] if settings.batch_normalization else []),
            *hidden,
            _dropout(settings, number=len(settings.dense) + 1, seed=seed),
            _dense(settings, units, activation, name="probabilities", seed=seed),
        ],
        name="head",
    )


def _dense(settings: Params, units: int, activation: str, *, name: str, seed: int) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed=chance.digest(seed, name) % 2**31),
        kernel_regularizer=keras.regularizers.L1L2(settings.l1, settings.l2) if settings.l1 or settings.l2 else None,
        name=name,
    )


def _dropout(settings: Params, *, number: int, seed: int) -> keras.layers.Dropout:
    name = f"dropout_{number}"
    return keras.layers.Dropout(settings.dropout, seed=chance.digest(seed, name) % 2**31, name=name)
