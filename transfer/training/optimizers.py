"""Optimizers: how a network's weights follow the slope of the loss, by Keras's names and settings."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from transfer.network.backend import keras
from transfer.runtime.params import Section

Name = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]

_Decay = Annotated[float, Field(ge=0, lt=1)]  # of a running mean: how much of it stays from one batch to the next

_BETAS = ("beta_1", "beta_2", "epsilon", "amsgrad")
SETTINGS: dict[Name, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adagrad": ("initial_accumulator_value", "epsilon"),
    "rmsprop": ("rho", "momentum", "centered", "epsilon"),
    "adam": _BETAS,
    "adamw": ("weight_decay", *_BETAS),
}
_CLASSES = {
    "sgd": keras.optimizers.SGD,
    "adagrad": keras.optimizers.Adagrad,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


class Settings(Section):
    """What can be said of an optimizer besides its learning rate; what is left out is as Keras has it."""

    momentum: _Decay | None = None
    nesterov: bool | None = None
    initial_accumulator_value: float | None = Field(default=None, ge=0)
    rho: _Decay | None = None
    centered: bool | None = None
    beta_1: _Decay | None = None
    beta_2: _Decay | None = None
    amsgrad: bool | None = None
    weight_decay: float | None = Field(default=None, ge=0)
    epsilon: float | None = Field(default=None, gt=0)

    @model_serializer(mode="wrap")
    def given(self, handler: SerializerFunctionWrapHandler) -> dict[str, float | bool]:
        """The settings that are not left to Keras, by their names."""
        return {name: value for name, value in handler(self).items() if value is not None}


def check_settings(name: Name, settings: Settings) -> None:
    """Stop where the settings are none of the optimizer's, or one of them needs another.

    Raises:
        ValueError: with the setting and those the optimizer has.
    """
    given: Mapping[str, float | bool] = settings.model_dump()
    for setting in given:
        if setting not in SETTINGS[name]:
            known = ", ".join(f"`{each}`" for each in SETTINGS[name])
            raise ValueError(f"`optimizer: {name}` has the settings {known}. Received: `{setting}`. Take it out.")
    if given.get("nesterov") and not given.get("momentum"):
        raise ValueError("`nesterov` looks ahead along the momentum. Received: no `momentum`. Set it, 0.9 for example.")


def build(
    name: Name, settings: Settings, *, learning_rate: float, schedule: Schedule, steps: int
) -> keras.optimizers.Optimizer:
    """Make an optimizer.

    Args:
        name: which.
        settings: of this optimizer alone, as `refuse_contradictions` lets them pass.
        learning_rate: in the first batch.
        schedule: "constant" stays there unless a callback lowers it; "cosine" falls to zero along half a wave
            (Loshchilov and Hutter, 2017, without restarts).
        steps: batches until a cosine is at zero.
    """
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps) if schedule == "cosine" else learning_rate
    return _CLASSES[name](learning_rate=rate, **settings.model_dump())
