"""Remedies: parameters to change when a training run over-fits, under-fits or diverges."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

RAISE, LOWER = "raise", "lower"


class Remedy(NamedTuple):
    """A parameter by its dotted name, and the suggested change."""

    parameter: str
    change: str


def applicable(remedies: Sequence[Remedy], params: Mapping[str, object]) -> list[Remedy]:
    """Return the remedies without those that lower a parameter whose value is already 0; unknown ones stay."""
    return [remedy for remedy in remedies if remedy.change != LOWER or params.get(remedy.parameter, True)]


def early_stopping(stage: str) -> list[Remedy]:
    """Return the change that makes a stage keep the epoch with the lowest validation loss."""
    return [Remedy(f"{stage}.training.early_stopping", "monitor val_loss and restore the best weights")]


def smaller_steps(stage: str) -> list[Remedy]:
    """Return changes for smaller or less noisy optimizer steps."""
    return [Remedy(f"{stage}.training.learning_rate", LOWER), Remedy(f"{stage}.training.batch_size", RAISE)]


def more_steps(stage: str) -> list[Remedy]:
    """Return changes for more or larger optimizer steps."""
    return [Remedy(f"{stage}.training.epochs", RAISE), Remedy(f"{stage}.training.learning_rate", RAISE)]


def regularization(stage: str) -> list[Remedy]:
    """Return changes against over-fitting: more data, stronger regularization, a smaller network or smaller steps."""
    shared = [
        Remedy("subsample.photographs", RAISE),
        Remedy("extract_features.views", RAISE),
        Remedy("train_head.head.dropout", RAISE),
        Remedy("train_head.head.l2", RAISE),
    ]
    if stage == "train_head":
        return [*shared, Remedy("train_head.head.dense", "fewer units")]
    return [Remedy(f"{stage}.training.learning_rate", LOWER), *shared]


def capacity(stage: str) -> list[Remedy]:
    """Return changes against under-fitting: more steps, weaker regularization or more trained parameters."""
    if stage == "train_head":
        return [
            *more_steps(stage),
            Remedy("train_head.head.dropout", LOWER),
            Remedy("train_head.head.l2", LOWER),
            Remedy("train_head.head.dense", "more units"),
            Remedy("extract_features.image_size", RAISE),
        ]
    return [*more_steps(stage), Remedy("extract_features.frozen_through", "an earlier layer")]
