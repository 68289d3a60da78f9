import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.transfer.conftest import Cached
from tests.transfer.training.conftest import HEAD, assert_same_weights, datasets, params, without_seconds
from transfer.network import heads
from transfer.network.backend import keras
from transfer.training import fit
from transfer.training.history import History

CLASSES = pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "owl")])


def several(number: int, classes: int = 2) -> keras.Model:
    """Return a network of untrained heads."""
    return heads.build(HEAD, feature_map=(2, 2, 8), classes=classes, seed=5, number=number)


def train(head: keras.Model, features: Any, scratch: Path, **changes: Any) -> History:
    """Train each head of a network on its own log odds, from pooled rows."""
    folder, entries = features
    training, validation = (each for each in datasets((folder, entries)))
    for part in (training, validation):
        part._pool = lambda activation: heads.pool(activation, "average")
    above = heads.above_pooling(head, "average")
    settings = params(**changes)
    fit.compile_model(above, settings, batches=len(training))
    return fit.fit(above, training, validation, settings=settings, seed=5, scratch=scratch, name="test")


@CLASSES
def test_each_of_several_heads_learns_as_it_would_alone(
    cached: Cached, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    """The first of three heads ends with the weights that it has as the first of two."""
    features = cached(train=36, classes=classes)
    weights = []
    for number in (2, 3):
        head = several(number, len(classes))
        train(head, features, tmp_path / f"{number}", early_stopping=None)
        weights.append(head.get_layer("head_1_dense_1").get_weights()[0])
    untrained = several(2, len(classes)).get_layer("head_1_dense_1").get_weights()[0]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5, atol=1e-6)
    assert np.abs(weights[0] - untrained).max() > 0.01


@CLASSES
def test_scores_of_several_heads_are_those_of_their_average(
    cached: Cached, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    """The best epoch's loss and accuracy in the history are those of the network, also with smoothed labels."""
    features = cached(train=36, classes=classes, noise=2.0)
    head = several(3, len(classes))
    history = train(head, features, tmp_path / "scratch", label_smoothing=0.2)
    best = min(history, key=lambda epoch: epoch["val_loss"])
    fit.compile_model(head, params(), batches=1)
    scores = head.evaluate(datasets(features)[1], verbose=0, return_dict=True)
    assert scores["log_loss"] == pytest.approx(best["val_loss"], rel=1e-3)
    assert scores["accuracy"] == pytest.approx(best["val_accuracy"])


def test_the_loss_of_several_heads_is_the_sum_of_theirs(cached: Cached) -> None:
    """Keras's loss, which training minimizes, adds up the heads' own log losses and their penalties."""
    training, _ = datasets(cached())
    head = several(2)
    rows, labels = training[0]
    pooled = rows.mean(axis=(1, 2))
    above = heads.above_pooling(head, "average")
    fit.compile_model(above, params(), batches=1)
    odds = above.predict(pooled, verbose=0)[..., 0]
    probabilities = 1 / (1 + np.exp(-odds))
    losses = -np.log(np.where(labels == 1, probabilities, 1 - probabilities)).mean(axis=0)
    total = float(above.evaluate(pooled, labels, verbose=0, return_dict=True)["loss"])
    assert total == pytest.approx(losses.sum() + float(sum(above.losses)), rel=1e-4)
    assert not math.isclose(losses[0], losses[1], rel_tol=1e-3)


def test_several_heads_train_to_the_same_bytes(cached: Cached, tmp_path: Path) -> None:
    """Twice the same run gives the same history and weights."""
    features = cached()
    first, second = several(2), several(2)
    histories = [train(head, features, tmp_path / name) for head, name in ((first, "1"), (second, "2"))]
    assert without_seconds(histories[0]) == without_seconds(histories[1])
    assert_same_weights(first, second)


@pytest.mark.parametrize("number", [1, 2])
@CLASSES
def test_weights_make_classes_count_the_same(classes: tuple[str, ...], number: int) -> None:
    """The weighted loss of a network is the mean of its losses on each class, however few photographs it has."""
    counts = [8, 2, 2][: len(classes)]
    labels = np.repeat(np.arange(len(classes)), counts)[:, np.newaxis].astype(np.float32)
    above = heads.above_pooling(several(number, len(classes)), "average")
    rows = np.random.default_rng(0).random((len(labels), 8), np.float32)

    def loss(chosen: Any, **changes: Any) -> float:
        fit.compile_model(above, params(**changes), batches=1, counts=counts)
        scores = above.evaluate(rows[chosen], labels[chosen], batch_size=64, verbose=0, return_dict=True)
        return float(scores["loss"]) - float(sum(above.losses))

    of_classes = [loss(labels[:, 0] == number) for number in range(len(classes))]
    everything = labels[:, 0] >= 0
    assert loss(everything, class_weight="balanced") == pytest.approx(np.mean(of_classes), rel=1e-4)
    assert loss(everything) == pytest.approx(np.average(of_classes, weights=counts), rel=1e-4)
