"""Models: the networks that are trained from scratch, in the order of the comparison, and their settings."""

from typing import Any, Generic, TypeVar

from pydantic import Field

from baselines import networks
from transfer.runtime.params import Section
from transfer.training.settings import Params as TrainingParams

NetworkT = TypeVar("NetworkT", networks.Dense, networks.Convolutional, networks.Deep)


class Model(Section, Generic[NetworkT]):
    """The settings of one model: its network, its training images and its training."""

    network: NetworkT
    augmented: bool = Field(description="whether every epoch draws a new view of each training photograph")
    training: TrainingParams


FROM_SCRATCH: dict[str, type[Model[Any]]] = {
    "logistic_regression": Model[networks.Dense],
    "mlp": Model[networks.Dense],
    "cnn": Model[networks.Convolutional],
    "cnn_augmented": Model[networks.Convolutional],
    "cnn_regularized": Model[networks.Convolutional],
    "plain": Model[networks.Deep],
    "residual": Model[networks.Deep],
}
