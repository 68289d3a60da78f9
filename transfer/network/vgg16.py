"""VGG16's convolutional base (Simonyan and Zisserman, 2015), divided at a boundary layer.

The layers up to the boundary are frozen: their activations never change and are computed once. The layers above it are
fine-tuned.
"""

import numpy as np

from transfer.network.backend import keras
from transfer.network.weights import ARCHITECTURE, Weights

MEAN_RGB = (123.68, 116.779, 103.939)  # of ImageNet; `keras.applications.vgg16.preprocess_input` subtracts it
MIN_IMAGE_SIZE = 32  # pixels; five poolings halve it to 1
POOLED = "block5_pool"


def layer_names() -> list[str]:
    """Return the names of the base's layers from input to output, as in `keras.applications.VGG16`."""
    names = list(ARCHITECTURE)
    following = [*names[1:], "block6"]
    with_pools = [
        [name] if name[:6] == after[:6] else [name, f"{name[:6]}_pool"]
        for name, after in zip(names, following, strict=True)
    ]
    return [name for group in with_pools for name in group]


def shape_after(layer: str, *, image_size: int) -> tuple[int, int, int]:
    """Return the shape (height, width, channels) of a layer's output for square photographs of `image_size` pixels."""
    through = layer_names()[: layer_names().index(layer) + 1]
    edge = image_size >> sum(name.endswith("_pool") for name in through)
    channels = [ARCHITECTURE[name][-1] for name in through if name in ARCHITECTURE][-1]
    return edge, edge, channels


def frozen_layers(weights: Weights, *, through: str, dtype: str = "float32") -> list[keras.Layer]:
    """Return preprocessing and the base's layers up to and including `through`, not trainable.

    They take RGB from 0 to 255. ImageNet's weights take BGR, so the channels of the first kernel are reversed instead
    of those of every photograph. Preprocessing computes in float32: in bfloat16, pixels minus a mean would lose a bit.

    Args:
        weights: of the base.
        through: name of the last layer.
        dtype: Keras's dtype policy of the base's layers.
    """
    names = layer_names()
    layers = _layers(weights, names[: names.index(through) + 1], dtype)
    for layer in layers:
        layer.trainable = False
    return [keras.layers.Rescaling(1.0, offset=[-mean for mean in MEAN_RGB], name="preprocessing"), *layers]


def top_layers(weights: Weights, *, above: str, dtype: str = "float32") -> list[keras.Layer]:
    """Return the base's layers after `above`, trainable, with a dtype policy of Keras."""
    names = layer_names()
    return _layers(weights, names[names.index(above) + 1 :], dtype)


def _layers(weights: Weights, names: list[str], dtype: str) -> list[keras.Layer]:
    return [
        _convolution(name, dtype, *weights[name]) if name in ARCHITECTURE else _pooling(name, dtype) for name in names
    ]


def _pooling(name: str, dtype: str) -> keras.Layer:
    return keras.layers.MaxPooling2D(2, strides=2, dtype=dtype, name=name)


def _convolution(name: str, dtype: str, kernel: np.ndarray, bias: np.ndarray) -> keras.Layer:
    layer = keras.layers.Conv2D(kernel.shape[-1], 3, padding="same", activation="relu", dtype=dtype, name=name)
    layer.build((None, None, None, kernel.shape[2]))
    layer.set_weights([kernel[:, :, ::-1] if name == "block1_conv1" else kernel, bias])
    return layer
