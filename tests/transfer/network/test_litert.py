import numpy as np
import pytest

from tests import exportable
from transfer.network import litert, mirroring
from transfer.network.backend import keras


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A network of two heads."""
    return exportable.network(pooling="average_max", number=2)


def test_network_is_converted(network: keras.Model) -> None:
    """It predicts what it predicts in Keras."""
    function = litert.function(litert.convert(network))
    for photograph in exportable.pixels(3)[:, np.newaxis]:
        np.testing.assert_allclose(function(photograph), network(photograph, training=False), rtol=1e-4, atol=1e-6)


def test_network_that_mirrors_is_converted(network: keras.Model) -> None:
    """It predicts what it predicts in Keras."""
    both = mirroring.build(keras.Input(network.input_shape[1:], dtype="uint8"), network.layers)
    function = litert.function(litert.convert(both))
    for photograph in exportable.pixels(3)[:, np.newaxis]:
        np.testing.assert_allclose(function(photograph), both(photograph, training=False), rtol=1e-4, atol=1e-6)


def test_network_is_quantized(network: keras.Model) -> None:
    """With samples, weights are 8-bit integers; the input stays uint8, and the output a probability in float32.

    The same network and samples give the same bytes, and so does a conversion without samples, which has fewer steps.
    """
    photographs = exportable.pixels(20)
    content = litert.convert(network, samples=list(photographs))
    assert litert.convert(network, samples=list(photographs)) == content
    function = litert.function(content)
    for photograph in photographs[:3, np.newaxis]:
        received = function(photograph)
        assert received.dtype == np.float32
        assert received == pytest.approx(np.asarray(network(photograph, training=False)), abs=0.1)
