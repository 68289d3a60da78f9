from typing import Any, get_args

import numpy as np
import pytest

from transfer.network.backend import keras
from transfer.training import optimizers
from transfer.training.settings import OptimizerName, OptimizerSettings, check_optimizer_settings


def built(name: OptimizerName, values: dict[str, Any] | None = None, **changes: Any) -> keras.optimizers.Optimizer:
    """Build an optimizer with some settings."""
    settings = OptimizerSettings.model_validate(values or {})
    check_optimizer_settings(name, settings)
    arguments: dict[str, Any] = {"learning_rate": 0.1, "schedule": "constant", "steps": 10}
    return optimizers.build(name, settings, **arguments | changes)


def descend(optimizer: keras.optimizers.Optimizer, steps: int) -> float:
    """Minimize x squared from x = 1 and return x after some steps."""
    x = keras.Variable(1.0)
    for _ in range(steps):
        optimizer.apply([2 * x], [x])
    return float(x)


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
def test_an_optimizer_takes_its_settings_and_descends(name: OptimizerName, settings: dict[str, Any]) -> None:
    """Keras's optimizer of that name gets the settings, and minimizes a parabola."""
    optimizer = built(name, settings)
    assert type(optimizer).__name__.lower() == name
    config = optimizer.get_config()
    assert {key: config[key] for key in settings} == settings
    assert abs(descend(optimizer, 20)) < 0.95


def test_every_optimizer_has_a_class() -> None:
    """Each optimizer that params.yaml may name can be built."""
    assert set(optimizers.CLASSES) == set(get_args(OptimizerName))


def test_momentum_and_nesterov_follow_their_formulas() -> None:
    """Two steps down x squared end where the formulas of momentum and Nesterov's momentum say."""
    assert descend(built("sgd"), 2) == pytest.approx(0.64)
    # v1 = -0.2, x1 = 0.8; v2 = 0.9 v1 - 0.16 = -0.34, x2 = 0.46
    assert descend(built("sgd", {"momentum": 0.9}), 2) == pytest.approx(0.46)
    # x1 = 1 + 0.9 v1 - 0.2 = 0.62; v2 = 0.9 v1 - 0.124 = -0.304, x2 = 0.62 + 0.9 v2 - 0.124
    assert descend(built("sgd", {"momentum": 0.9, "nesterov": True}), 2) == pytest.approx(0.62 - 0.2736 - 0.124)


def test_a_cosine_schedule_falls_to_zero() -> None:
    """The learning rate is full at first, half in the middle and zero at the end."""
    rate = built("adam", schedule="cosine", steps=100).get_config()["learning_rate"]
    schedule = keras.optimizers.schedules.deserialize(rate)
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 50, 100)], [0.1, 0.05, 0], atol=1e-8)


def test_settings_that_are_not_set_keep_keras_s_defaults() -> None:
    """An absent or null setting is Keras's default."""
    config = built("adam", {"beta_1": 0.8, "beta_2": None}).get_config()
    assert config["beta_2"] == keras.optimizers.Adam().get_config()["beta_2"]
