from typing import Any

import numpy as np
import pytest

from tests import exportable
from transfer.network import mirroring
from transfer.network.backend import keras
from transfer.runtime.errors import DataError

onnx_model = pytest.importorskip("transfer.network.onnx_model", exc_type=ModuleNotFoundError)

HEADS: list[dict[str, Any]] = [
    *({"pooling": pooling} for pooling in ("average", "max", "average_max", "flatten")),
    *({"activation": activation} for activation in ("relu", "elu", "gelu", "silu", "tanh")),
    {"batch_normalization": False, "dense": []},
    {"number": 3},
    {"classes": 3},
    {"classes": 3, "number": 2},
]


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_every_head_is_converted(head: dict[str, Any]) -> None:
    """A network with any head of the parameters predicts in ONNX Runtime what it predicts in Keras, in any batch."""
    network = exportable.network(**head)
    photographs = exportable.pixels(3)
    expected = np.asarray(network(photographs, training=False))
    content = onnx_model.convert(network)
    np.testing.assert_allclose(onnx_model.function(content)(photographs), expected, rtol=1e-4, atol=1e-6)
    assert len(np.unique(expected)) > 1
    assert onnx_model.convert(network) == content


@pytest.mark.parametrize("head", [{"pooling": "flatten"}, {"classes": 3, "number": 2}], ids=str)
def test_a_network_that_mirrors_is_converted(head: dict[str, Any]) -> None:
    """It predicts what it predicts in Keras, in any batch, and its file has the weights once."""
    network, photographs = exportable.network(**head), exportable.pixels(3)
    both = mirroring.build(keras.Input(photographs.shape[1:], dtype="uint8"), network.layers)
    content = onnx_model.convert(both)
    np.testing.assert_allclose(onnx_model.function(content)(photographs), both(photographs), rtol=1e-4, atol=1e-6)
    assert len(content) < len(onnx_model.convert(network)) + 2000


def test_another_layer_is_named() -> None:
    """A layer that no network of this project has is refused, with its name."""
    network = keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), keras.layers.UpSampling2D(name="larger")])
    with pytest.raises(DataError, match=r"Received: UpSampling2D \(`larger`\)"):
        onnx_model.convert(network)
