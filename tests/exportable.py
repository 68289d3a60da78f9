"""Small networks in the form that `fine_tune` saves, with random weights."""

from typing import Any

import numpy as np

from transfer.images.decoding import Pixels
from transfer.network import heads
from transfer.network.backend import keras

SIZE = 8
HEAD: dict[str, Any] = {
    "pooling": "max",
    "batch_normalization": True,
    "dense": [5],
    "activation": "relu",
    "dropout": 0.5,
    "l1": 0.0,
    "l2": 0.0,
}


def network(*, classes: int = 2, number: int = 1, **head: Any) -> keras.Model:
    """Return a network with some heads, whose batch normalization has statistics of its own."""
    settings = heads.Params(**{**HEAD, **head})
    top = heads.build(settings, feature_map=(SIZE // 2, SIZE // 2, 4), classes=classes, seed=0, number=number)
    whole = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8", name="photograph"),
            keras.layers.Rescaling(1.0, offset=[-123.68, -116.779, -103.939], name="preprocessing"),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(2, strides=2, name="pool1"),
            top,
        ]
    )
    random = np.random.default_rng(0)
    for layer in [whole.get_layer("conv1"), *top.layers]:
        scale = 0.02 if layer.name == "conv1" else 0.5  # pixels are far from 0
        shapes = [each.shape for each in layer.get_weights()]
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, shape) for shape in shapes])
        elif shapes:
            layer.set_weights([random.normal(0, scale, shape) for shape in shapes])
    return whole


def pixels(number: int) -> Pixels:
    """Return random photographs, each brighter than the one before, of shape (number, SIZE, SIZE, 3)."""
    noise = np.random.default_rng(1).integers(0, 256, (number, SIZE, SIZE, 3))
    brightness = np.linspace(0.2, 1, number).reshape(-1, 1, 1, 1)
    photographs: Pixels = (noise * brightness).astype(np.uint8)
    return photographs
