"""Settings: what params.yaml says of a training run."""

from typing import Literal

from pydantic import Field, model_validator

from transfer.runtime.params import Section

Monitor = Literal["loss", "accuracy", "val_loss", "val_accuracy"]


def mode_of(monitor: Monitor) -> str:
    """Whether more or less of a monitored score is better: `max` or `min`."""
    return "max" if monitor.endswith("accuracy") else "min"


class EarlyStopping(Section):
    """When training ends before its last epoch, and which epoch's weights it leaves."""

    monitor: Monitor
    mode: Literal["auto", "min", "max"] = Field(description="of the monitor: whether less or more is better")
    min_delta: float = Field(ge=0, description="a smaller change for the better is none")
    patience: int = Field(ge=1, le=1000, description="epochs that may pass without one")
    baseline: float | None = Field(description="a value that must be reached, else epochs count as without change")
    restore_best_weights: bool = Field(description="those of the best epoch instead of the last one's")

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
    factor: float = Field(gt=0, lt=1, description="by which the learning rate is multiplied")
    patience: int = Field(ge=1, le=1000, description="epochs without a change for the better before that")
    min_delta: float = Field(ge=0)
    cooldown: int = Field(ge=0, le=1000, description="epochs after that which do not count")
    min_lr: float = Field(ge=0, description="the learning rate falls no lower")


class ModelCheckpoint(Section):
    """Which epochs' networks are kept as files, besides the one that the training leaves."""

    monitor: Monitor
    save_best_only: bool = Field(description="of those looked at, keep the best alone")
    save_freq: int = Field(ge=1, le=1000, description="epochs from one that is looked at to the next")
