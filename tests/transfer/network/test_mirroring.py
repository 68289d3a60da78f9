from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import exportable
from transfer.network import heads, mirroring, saving
from transfer.network.backend import keras


def logarithms(network: keras.Model, photographs: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithms of a network's probabilities, which are log odds or logits up to one number for all."""
    return np.log(saving.predict(network, photographs))


def mirroring_network(network: keras.Model) -> keras.Model:
    """Return a network that averages the log odds of another one, and shares its layers."""
    photograph = keras.Input(network.input_shape[1:], dtype="uint8", name="photograph")
    return mirroring.build(photograph, network.layers)


@pytest.mark.parametrize("head", [{}, {"number": 3}, {"classes": 3}, {"classes": 3, "number": 2}], ids=str)
def test_a_network_averages_the_log_odds_of_a_photograph_and_its_mirror_image(
    head: dict[str, Any], tmp_path: Path
) -> None:
    """Both have the same prediction, with any head; so does the network's file, which is the same for each save."""
    network, photographs = exportable.network(**head), exportable.pixels(4)
    mirrored = photographs[:, :, ::-1]
    mean = (logarithms(network, photographs) + logarithms(network, mirrored)) / 2
    expected = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    both = mirroring_network(network)
    np.testing.assert_allclose(saving.predict(both, photographs), expected, rtol=1e-5)
    np.testing.assert_array_equal(saving.predict(both, mirrored), saving.predict(both, photographs))
    assert np.abs(saving.predict(network, mirrored) - saving.predict(network, photographs)).max() > 1e-3

    for name in ("model.keras", "again.keras"):
        saving.save(both, tmp_path / name)
    assert (tmp_path / "model.keras").read_bytes() == (tmp_path / "again.keras").read_bytes()
    loaded = saving.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(saving.predict(loaded, photographs), saving.predict(both, photographs))
    for_one = mirroring.for_one_picture(loaded)
    np.testing.assert_allclose(saving.predict(for_one, photographs), saving.predict(network, photographs), rtol=1e-5)
    assert mirroring.for_one_picture(for_one) is for_one


@pytest.mark.parametrize("number", [1, 2])
def test_it_takes_the_weights_of_a_head_and_a_temperature(number: int) -> None:
    """The head that averages has the head's weights in their order, and divides its log odds by a temperature."""
    network, photographs = exportable.network(number=number), exportable.pixels(4)
    both = mirroring_network(keras.models.clone_model(network))  # with weights of its own
    for mine, other in zip(mirroring.for_one_picture(both).layers, network.layers, strict=True):
        mine.set_weights([weights + 1 for weights in other.get_weights()])
    for mine, other in zip(both.layers[1:], network.layers, strict=True):
        mine.set_weights(other.get_weights())
    for_one = mirroring.for_one_picture(both)
    np.testing.assert_allclose(saving.predict(for_one, photographs), saving.predict(network, photographs), rtol=1e-5)

    before = logarithms(both, photographs)
    heads.divide_log_odds(for_one.layers[-1], 2.0)
    after = logarithms(both, photographs)
    np.testing.assert_allclose((after[:, 1] - after[:, 0]) * 2, before[:, 1] - before[:, 0], rtol=1e-4)


@pytest.mark.parametrize("flips", [[], [1], [2, 2]], ids=str)
def test_another_graph_of_the_same_layers_does_not_count_as_mirroring(flips: list[int]) -> None:
    """A file from elsewhere that does not mirror, or mirrors upside down or both pictures, is not taken for one."""
    *trunk, head = exportable.network().layers
    photograph = keras.Input((exportable.SIZE, exportable.SIZE, 3), dtype="uint8")
    feature_maps = []
    for axis in [*flips, None, None][:2]:
        signal = photograph if axis is None else keras.ops.flip(photograph, axis=axis)
        for layer in trunk:
            signal = layer(signal)
        feature_maps.append(signal)
    assert mirroring.parts(keras.Model(photograph, mirroring.of_both(head)(feature_maps))) is None
