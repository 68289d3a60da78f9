from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tests.transfer.training.conftest import CHECKPOINT, PLATEAU, STOPPING, params
from transfer.training import settings
from transfer.training.settings import EarlyStopping, OptimizerSettings


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.0), ("epochs", 0), ("optimizer", "adamax")])
def test_values_out_of_range_are_rejected(name: str, value: object) -> None:
    """Every setting has a range or a list of allowed values."""
    with pytest.raises(ValidationError):
        params(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer_settings": {"momentum": 0.9}}, r"`optimizer: adam` has the settings `beta_1`.* `momentum`"),
        ({"optimizer": "sgd", "optimizer_settings": {"nesterov": True}}, "no `momentum`"),
        ({"learning_rate_schedule": "cosine", "reduce_lr_on_plateau": PLATEAU}, "Received: 'cosine'"),
        ({"reduce_lr_on_plateau": PLATEAU | {"patience": 6}}, "training ends before"),
        ({"early_stopping": STOPPING | {"mode": "max"}}, "the worst epoch"),
        ({"model_checkpoint": CHECKPOINT | {"save_freq": 7}}, "no checkpoint is saved"),
    ],
)
def test_settings_that_contradict_each_other_are_rejected(changes: dict[str, Any], message: str) -> None:
    """A setting without effect, or with the opposite effect, is reported before training starts."""
    with pytest.raises(ValidationError, match=message):
        params(**changes)


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "max"), ("accuracy", "min")])
def test_a_mode_that_keeps_the_worst_epoch_is_rejected(monitor: str, mode: str) -> None:
    """`mode` must fit `monitor`: losses are minimized, accuracies maximized."""
    with pytest.raises(ValueError, match="the worst epoch"):
        EarlyStopping.model_validate(STOPPING | {"monitor": monitor, "mode": mode})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("adagrad", {"rho": 0.9}, "`optimizer: adagrad` has the settings `initial_accumulator_value`, `epsilon`"),
        ("adam", {"weight_decay": 0.1}, "Received: `weight_decay`"),
        ("sgd", {"nesterov": True}, "Received: no `momentum`"),
    ],
)
def test_settings_of_another_optimizer_are_rejected(
    name: settings.OptimizerName, values: dict[str, Any], message: str
) -> None:
    """A setting that the optimizer does not have is named, with the settings that it has."""
    with pytest.raises(ValueError, match=message):
        settings.check_optimizer_settings(name, OptimizerSettings.model_validate(values))


@pytest.mark.parametrize("values", [{"momentum": 1.0}, {"beta_1": -0.1}, {"epsilon": 0.0}, {"clip": 1.0}])
def test_optimizer_settings_out_of_range_are_rejected(values: dict[str, Any]) -> None:
    """Values out of range and unknown names are rejected."""
    with pytest.raises(ValidationError):
        OptimizerSettings.model_validate(values)


def test_optimizer_settings_that_are_not_set_are_not_written() -> None:
    """A setting that is absent or null is left to Keras."""
    assert OptimizerSettings.model_validate({"beta_1": 0.8, "beta_2": None}).model_dump() == {"beta_1": 0.8}


def test_every_optimizer_has_a_list_of_settings() -> None:
    """The settings of each optimizer that params.yaml may name are known, and each is a field."""
    assert set(settings.OPTIMIZER_SETTINGS) == set(get_args(settings.OptimizerName))
    names = {name for known in settings.OPTIMIZER_SETTINGS.values() for name in known}
    assert names == set(OptimizerSettings.model_fields)
