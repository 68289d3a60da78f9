import numpy as np
import pytest
from pydantic import ValidationError

from transfer.network import heads, saving
from transfer.training import calibration

MAP = (3, 3, 16)
PLAIN = {
    "pooling": "average",
    "batch_normalization": True,
    "dense": [8],
    "activation": "relu",
    "dropout": 0.5,
    "l1": 0.0,
    "l2": 1e-4,
}


def head(classes: int = 2, seed: int = 0, number: int = 1, **changes: object) -> heads.keras.Model:
    """Build a plain head with some settings changed."""
    settings = heads.Params.model_validate(PLAIN | changes)
    return heads.build(settings, feature_map=MAP, classes=classes, seed=seed, number=number)


def maps() -> np.ndarray:
    """Five feature maps."""
    return np.random.default_rng(0).normal(size=(5, *MAP)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["average", "max", "average_max", "flatten"])
def test_two_classes_end_in_a_sigmoid_and_more_in_a_softmax(pooling: str) -> None:
    """The output is the probability of the second class, or of each class."""
    maps = np.random.default_rng(0).normal(size=(5, *MAP)).astype(np.float32)
    two, five = (head(classes, pooling=pooling).predict(maps, verbose=0) for classes in (2, 5))
    assert two.shape == (5, 1)
    assert ((two > 0) & (two < 1)).all()
    np.testing.assert_allclose(five.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["average", "max", "average_max", "flatten"])
def test_pooling_can_be_applied_beforehand(pooling: heads.Pooling) -> None:
    """The part above the pooling gives pooled maps the full head's probabilities, and shares its weights."""
    maps = np.random.default_rng(0).normal(size=(5, *MAP)).astype(np.float16)
    full_head = head(pooling=pooling)
    above = heads.above_pooling(full_head, pooling)
    rows = np.stack([heads.pool(feature_map, pooling) for feature_map in maps])
    expected = full_head.predict(maps.astype(np.float32), verbose=0)
    np.testing.assert_allclose(above.predict(rows, verbose=0), expected, rtol=1e-5)
    last = above.get_layer("probabilities")
    last.set_weights([weights * 0 for weights in last.get_weights()])
    np.testing.assert_allclose(full_head.predict(maps.astype(np.float32), verbose=0), 0.5)


def test_the_seed_decides_the_initial_weights() -> None:
    """The same seed gives the same weights, another seed gives others."""
    first, same, other = (head(seed=seed).get_layer("dense_1").get_weights()[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_dense_lists_the_hidden_layers() -> None:
    """Each entry adds a hidden layer with its own dropout before it; without any, a head is a logistic regression."""
    layers = [layer.name for layer in head(dense=[8, 4]).layers]
    assert layers[1:] == [
        "average",
        "batch_normalization",
        "dropout_1",
        "dense_1",
        "dropout_2",
        "dense_2",
        "dropout_3",
        "probabilities",
    ]
    assert [layer.name for layer in head(dense=[], batch_normalization=False).layers][-1] == "probabilities"


def test_regularization_adds_to_the_loss() -> None:
    """L1 and L2 apply to the kernel of every dense layer."""
    regularized = head(l1=0.1, l2=0.01)
    kernels = [layer.get_weights()[0] for layer in regularized.layers if "dense" in layer.name]
    kernels.append(regularized.get_layer("probabilities").get_weights()[0])
    expected = sum(0.1 * np.abs(kernel).sum() + 0.01 * (kernel**2).sum() for kernel in kernels)
    assert float(sum(regularized.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_several_heads_are_averaged(classes: int) -> None:
    """The probabilities are those of the mean log odds, or logits, of the heads, which training gets one by one."""
    three = head(classes, number=3)
    rows = np.stack([heads.pool(feature_map, "average") for feature_map in maps().astype(np.float16)])
    log_odds = heads.above_pooling(three, "average").predict(rows, verbose=0)
    assert log_odds.shape == (5, 3, 1 if classes == 2 else classes)
    mean = log_odds.mean(axis=1)
    expected = 1 / (1 + np.exp(-mean)) if classes == 2 else np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(three.predict(maps(), verbose=0), expected, rtol=1e-2)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("classes", [2, 4])
def test_log_odds_are_divided_by_a_temperature(classes: int, number: int) -> None:
    """Probabilities move towards each other, predictions and layers stay."""
    network = head(classes, number=number)
    before, names = saving.predict(network, maps()), [layer.name for layer in network.layers]
    heads.divide_log_odds(network, 2.0)
    after = saving.predict(network, maps())
    np.testing.assert_allclose(after, calibration.at_temperature(before, 2.0), rtol=1e-4)
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    assert [layer.name for layer in network.layers] == names


def test_each_of_several_heads_has_its_own_weights_and_dropout() -> None:
    """Weights and dropout of a head follow from the seed and its number, not from how many heads there are."""
    two, three = head(number=2), head(number=3)
    kernels = [three.get_layer(f"head_{number}_dense_1").get_weights()[0] for number in (1, 2, 3)]
    assert not any(np.array_equal(kernels[first], kernels[second]) for first, second in [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_array_equal(two.get_layer("head_2_dense_1").get_weights()[0], kernels[1])
    assert len({three.get_layer(f"head_{number}_dropout_1").seed for number in (1, 2, 3)}) == 3


@pytest.mark.parametrize(("name", "value"), [("dropout", 1.0), ("dense", [0]), ("pooling", "mean"), ("l2", -1.0)])
def test_settings_out_of_range_are_rejected(name: str, value: object) -> None:
    """Parameters of a head that cannot be built are rejected."""
    with pytest.raises(ValidationError):
        heads.Params.model_validate(PLAIN | {name: value})
