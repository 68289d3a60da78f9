"""A small head that trains in seconds, and settings and histories for it."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import training_params
from transfer.features import dataset
from transfer.images import manifest
from transfer.network import heads
from transfer.network.backend import keras
from transfer.training import fit
from transfer.training.history import History
from transfer.training.settings import Params

Features = tuple[Path, list[manifest.Entry]]

HEAD = heads.Params(
    pooling="average", batch_normalization=True, dense=[8], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
)
PLATEAU: dict[str, Any] = {
    "monitor": "val_loss",
    "factor": 0.5,
    "patience": 2,
    "min_delta": 0.0,
    "cooldown": 0,
    "min_lr": 0.0,
}
STOPPING: dict[str, Any] = {
    "monitor": "val_loss",
    "mode": "auto",
    "min_delta": 0.0,
    "patience": 6,
    "baseline": None,
    "restore_best_weights": True,
}
CHECKPOINT: dict[str, Any] = {"monitor": "val_loss", "save_best_only": False, "save_freq": 2}


class PowerCut(Exception):
    """Ends a training run as `kill -9` does: nothing after it runs."""


def params(**changes: Any) -> Params:
    """Return settings for six epochs of Adam, with some values changed."""
    quick: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 6, "patience": 6}
    return Params.model_validate(training_params("train_head", **quick | changes))


def datasets(features: Features) -> tuple[dataset.FeatureDataset, dataset.FeatureDataset]:
    """Return the training and the validation dataset of cached features."""
    folder, entries = features
    return dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)


def untrained_head(*, classes: int = 2, **changes: Any) -> keras.Model:
    """Return a small head with its initial weights, with some settings changed."""
    settings = HEAD.model_copy(update=changes)
    return heads.build(settings, feature_map=(2, 2, 8), classes=classes, seed=5)


def fit_head(
    head: keras.Model, features: Features, scratch: Path, *, settings: Params, loss_to_beat: float = math.inf
) -> History:
    """Compile and train a head."""
    training, validation = datasets(features)
    fit.compile_model(head, settings, batches=len(training))
    return fit.fit(
        head, training, validation, settings=settings, seed=5, scratch=scratch, name="test", loss_to_beat=loss_to_beat
    )


def train(
    features: Features, scratch: Path, *, until: int | None = None, loss_to_beat: float = math.inf, **changes: Any
) -> tuple[keras.Model, History]:
    """Train a small head; with `until`, raise `PowerCut` in the middle of that epoch, counted from 0."""
    training, validation = datasets(features)
    if until is not None:
        read = training._read

        def read_until(photograph: Any) -> Any:
            if training.epoch == until:
                raise PowerCut
            return read(photograph)

        training._read = read_until  # type: ignore[method-assign]
    settings, head = params(**changes), untrained_head()
    fit.compile_model(head, settings, batches=len(training))
    history = fit.fit(
        head, training, validation, settings=settings, seed=5, scratch=scratch, name="test", loss_to_beat=loss_to_beat
    )
    return head, history


def without_seconds(history: History) -> History:
    """Return a history without the durations, which differ from run to run."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def assert_same_weights(first: keras.Model, second: keras.Model) -> None:
    """Compare the weights of two networks bit by bit."""
    for weights, others in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


def history_of(*losses: float, **changes: float) -> History:
    """Return a history with these validation losses and the same other scores in each epoch."""
    scores = {"loss": 0.5, "accuracy": 0.5, "val_accuracy": 0.5} | changes
    return [{"epoch": number, **scores, "val_loss": loss} for number, loss in enumerate(losses, start=1)]
