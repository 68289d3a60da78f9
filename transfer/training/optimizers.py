"""Optimizers: Keras's, built from settings."""

from transfer.network.backend import keras
from transfer.training.settings import OptimizerName, OptimizerSettings, Schedule

CLASSES: dict[OptimizerName, type[keras.optimizers.Optimizer]] = {
    "sgd": keras.optimizers.SGD,
    "adagrad": keras.optimizers.Adagrad,
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
}


def build(
    name: OptimizerName, settings: OptimizerSettings, *, learning_rate: float, schedule: Schedule, steps: int
) -> keras.optimizers.Optimizer:
    """Build an optimizer.

    Args:
        name: a key of `CLASSES`.
        settings: arguments that this optimizer has, see `settings.check_optimizer_settings`.
        learning_rate: of the first batch.
        schedule: "constant" keeps the learning rate unless a callback lowers it; "cosine" lowers it to zero along half
            a cosine wave (Loshchilov and Hutter, 2017, without restarts).
        steps: batches after which "cosine" reaches zero.
    """
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps) if schedule == "cosine" else learning_rate
    return CLASSES[name](learning_rate=rate, **settings.model_dump())


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the present learning rate, also of an optimizer that several devices share: `float` would refuse it."""
    return float(optimizer.learning_rate.numpy())
