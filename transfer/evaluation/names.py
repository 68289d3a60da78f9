"""Names: what people read instead of the stages' names, the same in tables, figures and the report."""

from collections.abc import Mapping
from typing import TypeVar

NETWORKS = {"train_head": "head", "fine_tune": "fine-tuned"}  # the networks, by the stage that trains them
TRAINING_RUNS = {"train_head": "training of the head", "fine_tune": "fine-tuning"}  # of these stages

T = TypeVar("T")


def network(stage: str) -> str:
    """Return the name of the network that a stage trains."""
    return NETWORKS.get(stage, stage)


def training_run(stage: str) -> str:
    """Return the name of the training run of a stage."""
    return TRAINING_RUNS.get(stage, stage)


def by_network(by_stage: Mapping[str, T]) -> dict[str, T]:
    """Return values by the names of networks instead of their stages."""
    return {network(stage): value for stage, value in by_stage.items()}
