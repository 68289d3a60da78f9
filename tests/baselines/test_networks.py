from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from baselines import networks

CONVOLUTIONAL = {"filters": [4, 8], "dense": 8, "batch_normalization": True, "dropout": 0.5}
DEEP = {"filters": [4, 8], "pairs": 2}


def build(settings: networks.Settings, *, seed: int = 0, classes: int = 2) -> Any:
    """Build a network for images of 16 x 16 pixels."""
    return networks.build(settings, image_size=16, classes=classes, seed=seed)


def twin(*, skips: bool, seed: int = 0) -> Any:
    """Build a deep network with or without skip connections."""
    return build(networks.Deep.model_validate({**DEEP, "skips": skips}), seed=seed)


def convolutions(network: Any) -> list[str]:
    """Return the names of the convolutions."""
    return [layer.name for layer in network.layers if type(layer).__name__ == "Conv2D"]


def images() -> Any:
    """Return three images of noise."""
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_logistic_regression_has_one_weight_per_pixel_and_colour() -> None:
    """Without a hidden layer, the output depends on a weighted sum of the pixels alone."""
    assert build(networks.Dense(hidden=[])).count_params() == 16 * 16 * 3 + 1


def test_plain_and_residual_networks_have_the_same_weights() -> None:
    """With and without skip connections, all weights have the same names, shapes and initial values."""
    residual, plain = twin(skips=True), twin(skips=False)
    assert [weight.path for weight in residual.weights] == [weight.path for weight in plain.weights]
    for weights in zip(residual.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(*weights)


def test_plain_and_residual_networks_differ_in_the_skips() -> None:
    """The residual network has one addition more per pair of convolutions, and gives other probabilities."""
    residual, plain = twin(skips=True), twin(skips=False)
    added = {layer.name for layer in residual.layers} - {layer.name for layer in plain.layers}
    assert added == {f"group{group}_pair{pair}_skip" for group in (1, 2) for pair in (1, 2)}
    assert not np.allclose(residual(images()), plain(images()))


def test_a_deep_network_has_the_requested_depth() -> None:
    """Each group has a convolution that halves the edge, and the requested pairs of convolutions."""
    network = twin(skips=True)
    assert len(convolutions(network)) == 2 * (1 + 2 * 2)
    assert network.get_layer("average").input.shape == (None, 4, 4, 8)


@pytest.mark.parametrize(("pooling", "step"), [(False, 1), (True, 2)])
def test_a_pooled_network_sees_a_shape_anywhere(*, pooling: bool, step: int) -> None:
    """On empty paper a moved shape gives the same probabilities; with pooling, if it moves by whole steps of it."""
    settings = networks.Pooled(filters=[4, 8], pooling=pooling, dense=8)
    network = networks.build(settings, image_size=24, classes=3, seed=0, channels=1)
    paper = np.zeros((4, 24, 24, 1), np.uint8)
    shape = np.random.default_rng(0).integers(0, 256, (6, 6, 1), np.uint8)
    for image, (top, left) in zip(paper, ((4, 4), (4 + step, 4 + 5 * step), (14, 6), (5, 5)), strict=True):
        image[top : top + 6, left : left + 6] = shape
    first, *moved, by_one = np.asarray(network(paper))
    np.testing.assert_allclose(moved, [first, first], rtol=1e-5)
    assert np.allclose(by_one, first, rtol=1e-5) != pooling


@pytest.mark.parametrize("kind", ["dense", "convolutional", "deep"])
def test_initial_weights_depend_on_the_seed(kind: str) -> None:
    """The same seed gives the same network, another seed another network."""
    settings = {
        "dense": networks.Dense(hidden=[4]),
        "convolutional": networks.Convolutional.model_validate(CONVOLUTIONAL),
        "deep": networks.Deep.model_validate({**DEEP, "skips": True}),
    }[kind]
    first, again, other = (build(settings, seed=seed)(images()).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_three_classes_get_one_probability_each() -> None:
    """The probabilities of three classes add up to one."""
    probabilities = build(networks.Convolutional.model_validate(CONVOLUTIONAL), classes=3)(images()).numpy()
    assert probabilities.shape == (3, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (networks.Dense, {"hidden": [0]}),
        (networks.Convolutional, CONVOLUTIONAL | {"dropout": 1.0}),
        (networks.Deep, {**DEEP, "skips": True, "pairs": 0}),
    ],
)
def test_values_out_of_range_are_refused(section: Any, settings: dict[str, Any]) -> None:
    """Layers need at least one unit, dropout must be less than 1, and a group needs a pair of convolutions."""
    with pytest.raises(ValidationError):
        section.model_validate(settings)
