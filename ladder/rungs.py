"""Rungs: the ideas that are trained from nothing, in the order in which they came, and what each is made of."""

from typing import Any, Generic, TypeVar

from pydantic import Field

from ladder import networks
from transfer.runtime.params import Section
from transfer.training.settings import Params as TrainingParams

NetworkT = TypeVar("NetworkT", networks.Dense, networks.Convolutional, networks.Deep)


class Rung(Section, Generic[NetworkT]):
    """A network, what it is shown and how it is trained."""

    network: NetworkT
    augmented: bool = Field(description="whether each epoch shows another view of each training photograph")
    training: TrainingParams


FROM_NOTHING: dict[str, type[Rung[Any]]] = {
    "logistic_regression": Rung[networks.Dense],
    "mlp": Rung[networks.Dense],
    "cnn": Rung[networks.Convolutional],
    "cnn_augmented": Rung[networks.Convolutional],
    "cnn_regularized": Rung[networks.Convolutional],
    "plain": Rung[networks.Deep],
    "residual": Rung[networks.Deep],
}
