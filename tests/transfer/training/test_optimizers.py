from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from transfer.network.backend import keras
from transfer.training import optimizers


def built(name: str, settings: dict[str, Any] | None = None, **changes: Any) -> keras.optimizers.Optimizer:
    """An optimizer of some settings."""
    given = optimizers.Settings.model_validate(settings or {})
    optimizers.check_settings(name, given)  # type: ignore[arg-type]
    common: dict[str, Any] = {"learning_rate": 0.1, "schedule": "constant", "steps": 10}
    return optimizers.build(name, given, **common | changes)  # type: ignore[arg-type]


def slid(optimizer: keras.optimizers.Optimizer, steps: int) -> float:
    """Where a ball at 1 is after some steps down the slope of x squared."""
    place = keras.Variable(1.0)
    for _ in range(steps):
        optimizer.apply([2 * place], [place])
    return float(place)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adagrad", {"initial_accumulator_value": 0.2, "epsilon": 1e-6}),
        ("rmsprop", {"rho": 0.8, "momentum": 0.1, "centered": True, "epsilon": 1e-6}),
        ("adam", {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6, "amsgrad": True}),
        ("adamw", {"weight_decay": 0.01, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6, "amsgrad": True}),
    ],
)
def test_every_optimizer_takes_its_settings(name: str, settings: dict[str, Any]) -> None:
    """What is set is what Keras's optimizer has, and it goes down a slope."""
    optimizer = built(name, settings)
    assert type(optimizer).__name__.lower() == name
    config = optimizer.get_config()
    assert {key: config[key] for key in settings} == settings
    assert abs(slid(optimizer, 20)) < 0.95


def test_momentum_and_nesterov_follow_their_formulas() -> None:
    """Two steps down x squared end where the lecture's formulas say."""
    assert slid(built("sgd"), 2) == pytest.approx(0.64)
    # v1 = -0.2, x1 = 0.8; v2 = 0.9 v1 - 0.16 = -0.34, x2 = 0.46
    assert slid(built("sgd", {"momentum": 0.9}), 2) == pytest.approx(0.46)
    # x1 = 1 + 0.9 v1 - 0.2 = 0.62; v2 = 0.9 v1 - 0.124 = -0.304, x2 = 0.62 + 0.9 v2 - 0.124
    assert slid(built("sgd", {"momentum": 0.9, "nesterov": True}), 2) == pytest.approx(0.62 - 0.2736 - 0.124)


def test_a_cosine_falls_to_zero() -> None:
    """The learning rate is whole at first, half in the middle and nothing at the end."""
    rate = built("adam", schedule="cosine", steps=100).get_config()["learning_rate"]
    schedule = keras.optimizers.schedules.deserialize(rate)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 50, 100)], [0.1, 0.05, 0], atol=1e-8)


def test_what_is_left_out_is_left_to_keras() -> None:
    """Settings that are not given, or null, are not written down and stay as Keras has them."""
    given = optimizers.Settings.model_validate({"beta_1": 0.8, "beta_2": None})
    assert given.model_dump() == {"beta_1": 0.8}
    config = built("adam", {"beta_1": 0.8, "beta_2": None}).get_config()
    assert config["beta_2"] == keras.optimizers.Adam().get_config()["beta_2"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adagrad", {"rho": 0.9}, "`optimizer: adagrad` has the settings `initial_accumulator_value`, `epsilon`"),
        ("adam", {"weight_decay": 0.1}, "Received: `weight_decay`"),
        ("sgd", {"nesterov": True}, "Received: no `momentum`"),
    ],
)
def test_settings_of_another_optimizer_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    """A setting that would have no effect is named, with those that have one."""
    with pytest.raises(ValueError, match=message):
        built(name, settings)


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"beta_1": -0.1}, {"epsilon": 0.0}, {"clip": 1.0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    """Values out of range and unknown names are refused."""
    with pytest.raises(ValidationError):
        optimizers.Settings.model_validate(settings)
