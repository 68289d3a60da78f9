"""Heat maps: what in a photograph spoke for a class, by Grad-CAM (Selvaraju et al., 2017).

"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", equations 1 and 2: the last
convolution's channels, each weighted by the mean slope of the class's score over it; what speaks against is left out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.images import decoding
from transfer.images.decoding import Pixels, Resizing
from transfer.network.backend import keras, tf
from transfer.runtime.errors import DataError

HeatMap = NDArray[np.float32]

# From cold to hot, each lighter than the one before and from blue to yellow, which the colour blind tell apart too.
_STOPS = ((10, 10, 70), (85, 25, 135), (185, 60, 100), (240, 140, 40), (255, 245, 130))
_RAMP = np.stack([np.interp(np.linspace(0, 4, 256), range(5), channel) for channel in zip(*_STOPS, strict=True)], -1)
_OPACITY = 0.6  # more than half: the coldest white stays darker than the hottest black, in greyscale too


class Parts(NamedTuple):
    """A network taken apart: up to its last convolution, from there to the last hidden layer, and the last layer."""

    below: keras.Model
    above: keras.Model
    last: keras.layers.Dense


class _Box(NamedTuple):
    """A part of a photograph, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def grad_cam(network: keras.Model, pixels: Pixels, classes: Sequence[int]) -> HeatMap:
    """Where the last convolution of a network found what speaks for a class.

    The score is the class's log odds (of two classes) or logit (of more), before the last activation, which would
    flatten it where the network is sure.

    Args:
        network: as `fine_tune` saves it: layers in a row, the last of them a head that ends in a dense layer.
        pixels: what the network takes, of shape (photographs, height, width, 3).
        classes: for each photograph the number of the class that is asked about.

    Returns:
        Array of shape (photographs, height, width), as fine as the last convolution's output, from 0 to 1: the
        hottest place of each photograph is 1. All zero where nothing speaks for the class.

    Raises:
        DataError: the network has no convolution or does not end in such a head.
    """
    split = parts(network)
    return grad_cam_from_activations(split, split.below(pixels, training=False), classes)


def grad_cam_from_activations(split: Parts, activations: Any, classes: Sequence[int]) -> HeatMap:
    """The same as `of`, from what leaves the lower part of a network."""
    activations = tf.convert_to_tensor(activations)
    with tf.GradientTape() as tape:
        tape.watch(activations)
        logits = split.above(activations, training=False) @ split.last.kernel + split.last.bias
        scores = tf.concat([-logits, logits], axis=1) if logits.shape[1] == 1 else logits
        chosen = tf.gather(scores, np.asarray(classes), axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, activations), axis=(1, 2), keepdims=True)
    heat: HeatMap = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()
    hottest = heat.max(axis=(1, 2), keepdims=True)
    shares: HeatMap = np.divide(heat, hottest, out=np.zeros_like(heat), where=hottest > 0)
    return shares


def parts(network: keras.Model) -> Parts:
    """Take a network apart.

    Raises:
        DataError: the network has no convolution or does not end in a head with a dense layer.
    """
    convolutions = [n for n, layer in enumerate(network.layers) if isinstance(layer, keras.layers.Conv2D)]
    head = network.layers[-1]
    last = head.layers[-1] if isinstance(head, keras.Model) else None
    if not convolutions or not isinstance(last, keras.layers.Dense):
        raise DataError(
            "A network must have convolutions and end in a head with a dense layer for heat maps. "
            f"Received: {', '.join(layer.name for layer in network.layers)}. Use a network that `fine_tune` saved."
        )
    lower, upper = network.layers[: convolutions[-1] + 1], network.layers[convolutions[-1] + 1 : -1]
    hidden = keras.Model(head.inputs, last.input)
    return Parts(
        below=keras.Sequential([keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype), *lower]),
        above=keras.Sequential([keras.Input(lower[-1].output.shape[1:]), *upper, hidden]),
        last=last,
    )


def overlay(photograph: Image.Image, heat: HeatMap, *, resizing: Resizing) -> Image.Image:
    """Lay a heat map over the part of a photograph that the network saw.

    That part is shown in grey under the colours, which go from dark blue to light yellow; the rest stays as it is.

    Args:
        photograph: 8-bit RGB, whole, of any size.
        heat: of this photograph; array of shape (height, width), from 0 to 1.
        resizing: how the photograph was brought to the network's size.
    """
    frame = _Box(*(math.floor(edge) for edge in decoding.crop_box(*photograph.size, resizing)))
    seen = _Box(max(frame.left, 0), max(frame.top, 0), *map(min, frame[2:], photograph.size))
    grey = photograph.crop(seen).convert("L").convert("RGB")
    shown = photograph.copy()
    shown.paste(Image.blend(grey, _coloured(_spread(heat, frame, seen)), _OPACITY), seen)
    return shown


def _spread(heat: HeatMap, frame: _Box, seen: _Box) -> HeatMap:
    """The heat of what is seen, a part of the frame: one number for each pixel of the photograph there."""
    rows, columns = heat.shape
    box = (
        (seen.left - frame.left) * columns / frame.width,
        (seen.top - frame.top) * rows / frame.height,
        (seen.right - frame.left) * columns / frame.width,
        (seen.bottom - frame.top) * rows / frame.height,
    )
    return np.asarray(Image.fromarray(heat).resize((seen.width, seen.height), Image.Resampling.BILINEAR, box=box))


def _coloured(heat: HeatMap) -> Image.Image:
    return Image.fromarray(_RAMP.astype(np.uint8)[(heat * 255).round().astype(np.uint8)])
