from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ladder import networks

CONVOLUTIONAL = {"filters": [4, 8], "dense": 8, "batch_normalization": True, "dropout": 0.5}
DEEP = {"filters": [4, 8], "pairs": 2}


def built(settings: networks.Settings, *, seed: int = 0, classes: int = 2) -> Any:
    """A network for pictures of 16 pixels an edge."""
    return networks.build(settings, image_size=16, classes=classes, seed=seed)


def twin(*, skips: bool, seed: int = 0) -> Any:
    """A deep network with or without skips."""
    return built(networks.Deep.model_validate({**DEEP, "skips": skips}), seed=seed)


def convolutions(network: Any) -> list[str]:
    """The names of the convolutions."""
    return [layer.name for layer in network.layers if type(layer).__name__ == "Conv2D"]


def pictures() -> Any:
    """A few pictures of noise."""
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_logistic_regression_has_a_weight_a_pixel_and_colour() -> None:
    """Without a hidden layer there is a weighted sum of the pixels and nothing else."""
    assert built(networks.Dense(hidden=[])).count_params() == 16 * 16 * 3 + 1


def test_twins_have_the_same_weights() -> None:
    """With and without skips every weight is there, of the same shape and with the same first value."""
    residual, plain = twin(skips=True), twin(skips=False)
    assert [weight.path for weight in residual.weights] == [weight.path for weight in plain.weights]
    for one, other in zip(residual.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_twins_differ_by_the_skips() -> None:
    """The one has an addition for each pair of convolutions, the other none, and they give other probabilities."""
    residual, plain = twin(skips=True), twin(skips=False)
    added = {layer.name for layer in residual.layers} - {layer.name for layer in plain.layers}
    assert added == {f"group{group}_pair{pair}_skip" for group in (1, 2) for pair in (1, 2)}
    assert not np.allclose(residual(pictures()), plain(pictures()))


def test_a_deep_network_is_as_deep_as_asked_for() -> None:
    """A group is a convolution that halves the edge, and pairs."""
    network = twin(skips=True)
    assert len(convolutions(network)) == 2 * (1 + 2 * 2)
    assert network.get_layer("average").input.shape == (None, 4, 4, 8)


@pytest.mark.parametrize("kind", ["dense", "convolutional", "deep"])
def test_the_first_weights_follow_from_the_seed(kind: str) -> None:
    """The same seed starts the same network, another seed another."""
    settings = {
        "dense": networks.Dense(hidden=[4]),
        "convolutional": networks.Convolutional.model_validate(CONVOLUTIONAL),
        "deep": networks.Deep.model_validate({**DEEP, "skips": True}),
    }[kind]
    first, again, other = (built(settings, seed=seed)(pictures()).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_classes_get_a_probability_each() -> None:
    """Three classes share a probability of one."""
    given = built(networks.Convolutional.model_validate(CONVOLUTIONAL), classes=3)(pictures()).numpy()
    assert given.shape == (3, 3)
    np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (networks.Dense, {"hidden": [0]}),
        (networks.Convolutional, CONVOLUTIONAL | {"dropout": 1.0}),
        (networks.Deep, {**DEEP, "skips": True, "pairs": 0}),
    ],
)
def test_impossible_networks_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    """Values out of range are refused."""
    with pytest.raises(ValidationError):
        kind.model_validate(settings)
