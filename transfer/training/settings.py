"""Settings of a training run: its section of params.yaml, named as in Keras."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from transfer.runtime.params import Section

Monitor = Literal["loss", "accuracy", "val_loss", "val_accuracy"]
OptimizerName = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]

_Decay = Annotated[float, Field(ge=0, lt=1)]  # the fraction of a running mean that the next batch keeps

_BETAS = ("beta_1", "beta_2", "epsilon", "amsgrad")
OPTIMIZER_SETTINGS: dict[OptimizerName, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adagrad": ("initial_accumulator_value", "epsilon"),
    "rmsprop": ("rho", "momentum", "centered", "epsilon"),
    "adam": _BETAS,
    "adamw": ("weight_decay", *_BETAS),
}


class OptimizerSettings(Section):
    """The arguments of an optimizer besides its learning rate; an absent argument keeps Keras's default."""

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
    def only_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, float | bool]:
        """Return the arguments that are set, by name."""
        return {name: value for name, value in handler(self).items() if value is not None}


class EarlyStopping(Section):
    """When training ends before its last epoch, and which epoch's weights it keeps."""

    monitor: Monitor
    mode: Literal["auto", "min", "max"] = Field(description="whether a lower or a higher monitored value is better")
    min_delta: float = Field(ge=0, description="a smaller improvement does not count")
    patience: int = Field(ge=1, le=1000, description="epochs without improvement after which training ends")
    baseline: float | None = Field(description="until the monitor reaches it, an epoch counts as no improvement")
    restore_best_weights: bool = Field(description="keep the weights of the best epoch instead of the last")

    @model_validator(mode="after")
    def _mode_fits(self) -> "EarlyStopping":
        if self.mode not in ("auto", mode_of(self.monitor)):
            raise ValueError(
                f"`mode` must be `auto` or `{mode_of(self.monitor)}` for `monitor: {self.monitor}`. "
                f"Received: {self.mode!r}, which would keep the worst epoch."
            )
        return self


class ReduceLROnPlateau(Section):
    """When the learning rate is lowered, and by how much."""

    monitor: Monitor
    factor: float = Field(gt=0, lt=1, description="the learning rate is multiplied by it")
    patience: int = Field(ge=1, le=1000, description="epochs without improvement after which the rate is lowered")
    min_delta: float = Field(ge=0, description="a smaller improvement does not count")
    cooldown: int = Field(ge=0, le=1000, description="epochs after a lowering that do not count")
    min_lr: float = Field(ge=0, description="the lowest learning rate")


class ModelCheckpoint(Section):
    """Which epochs' networks are saved as files, besides the network that training returns."""

    monitor: Monitor
    save_best_only: bool = Field(description="of the epochs considered, save only the best")
    save_freq: int = Field(ge=1, le=1000, description="every how many epochs one is considered")


class Params(Section):
    """How a network is trained."""

    optimizer: OptimizerName
    optimizer_settings: OptimizerSettings
    learning_rate: float = Field(gt=0, le=1)
    learning_rate_schedule: Schedule
    reduce_lr_on_plateau: ReduceLROnPlateau | None
    label_smoothing: float = Field(ge=0, lt=1, description="how far labels are moved towards their mean")
    class_weight: Literal["none", "balanced"] = Field(description="weights of the classes in the loss")
    batch_size: int = Field(ge=1, le=1024)
    epochs: int = Field(ge=1, le=1000, description="the most epochs")
    early_stopping: EarlyStopping | None
    model_checkpoint: ModelCheckpoint | None

    @model_validator(mode="after")
    def _without_contradiction(self) -> "Params":
        check_optimizer_settings(self.optimizer, self.optimizer_settings)
        plateau, stopping, checkpoint = self.reduce_lr_on_plateau, self.early_stopping, self.model_checkpoint
        if plateau and self.learning_rate_schedule != "constant":
            raise ValueError(
                "`reduce_lr_on_plateau` needs `learning_rate_schedule: constant`. "
                f"Received: {self.learning_rate_schedule!r}, which sets the learning rate itself. Change "
                "one of the two."
            )
        if plateau and stopping and plateau.monitor == stopping.monitor and plateau.patience >= stopping.patience:
            raise ValueError(
                "`reduce_lr_on_plateau.patience` must be less than `early_stopping.patience`, or training ends before "
                f"the learning rate is lowered. Received: {plateau.patience} and {stopping.patience}"
            )
        if checkpoint and checkpoint.save_freq > self.epochs:
            raise ValueError(
                "`model_checkpoint.save_freq` must be at most `epochs`, or no checkpoint is saved. "
                f"Received: {checkpoint.save_freq} and {self.epochs}"
            )
        return self


def mode_of(monitor: Monitor) -> Literal["max", "min"]:
    """Return whether a higher (`max`) or a lower (`min`) value of a monitored score is better."""
    return "max" if monitor.endswith("accuracy") else "min"


def check_optimizer_settings(name: OptimizerName, settings: OptimizerSettings) -> None:
    """Check that an optimizer has every argument that is set, and every argument that another one needs.

    Raises:
        ValueError: an argument is not the optimizer's, or needs another one; the message lists the optimizer's own.
    """
    received: Mapping[str, float | bool] = settings.model_dump()
    for argument in received:
        if argument not in OPTIMIZER_SETTINGS[name]:
            known = ", ".join(f"`{each}`" for each in OPTIMIZER_SETTINGS[name])
            raise ValueError(f"`optimizer: {name}` has the settings {known}. Received: `{argument}`. Remove it.")
    if received.get("nesterov") and not received.get("momentum"):
        raise ValueError("`nesterov` needs `momentum`. Received: no `momentum`. Set it, for example to 0.9.")
