"""Heat maps: show which regions of a photograph support a class, by Grad-CAM (Selvaraju et al., 2017).

"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", equations 1 and 2: the sum of the
last convolution's channels, each weighted by the mean gradient of the class's score; negative values become zero.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.images import decoding
from transfer.images.decoding import Resizing
from transfer.network import mirroring
from transfer.network.backend import keras, tf
from transfer.runtime.errors import DataError

HeatMap = NDArray[np.float32]

# From dark blue to light yellow with increasing lightness, so that colour-blind people can read the scale too.
_COLOURS = ((10, 10, 70), (85, 25, 135), (185, 60, 100), (240, 140, 40), (255, 245, 130))
_RAMP = np.stack([np.interp(np.linspace(0, 4, 256), range(5), channel) for channel in zip(*_COLOURS, strict=True)], -1)
_OPACITY = 0.6  # above 0.5, the coldest white pixel stays darker than the hottest black pixel, in greyscale too


class Parts(NamedTuple):
    """The parts of a network: up to the last convolution, from there to the input of the last layer, and that layer.

    The last layer is dense, or an activation of the averaged log odds of several heads.
    """

    below: keras.Model
    above: keras.Model
    last: keras.layers.Dense | keras.layers.Activation


class _Box(NamedTuple):
    """A rectangle of a photograph, in integer pixels."""

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


def grad_cam(network: keras.Model, rows: NDArray[Any], classes: Sequence[int]) -> HeatMap:
    """Return the regions that support a class, at the resolution of the network's last convolution.

    The score is the class's log odds (for two classes) or logit (for more), taken before the last activation, whose
    gradient vanishes at high confidence.

    Args:
        network: a network as `fine_tune` saves it; its last layer is one head or several. Of one that mirrors, the
            score is that of the picture alone.
        rows: the network's input, pixels or activations, shape (photographs, height, width, channels).
        classes: for each photograph, the number of the class to explain.

    Returns:
        Array of shape (photographs, rows, columns), the resolution of the last convolution's output, from 0 to 1; the
        maximum of each photograph is 1. All zero for a photograph in which no region supports the class.

    Raises:
        DataError: the network has no convolution or does not end in such a head.
    """
    network_parts = parts(network)
    return grad_cam_from_activations(network_parts, network_parts.below(rows, training=False), classes)


def grad_cam_from_activations(network_parts: Parts, activations: Any, classes: Sequence[int]) -> HeatMap:
    """Return the same as `grad_cam`, from the output of the part below."""
    activations = tf.convert_to_tensor(activations)
    with tf.GradientTape() as tape:
        tape.watch(activations)
        logits = _logits(network_parts, activations)
        scores = tf.concat([-logits, logits], axis=1) if logits.shape[1] == 1 else logits
        chosen = tf.gather(scores, np.asarray(classes), axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, activations), axis=(1, 2), keepdims=True)
    heat: HeatMap = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()
    hottest = heat.max(axis=(1, 2), keepdims=True)
    normalized: HeatMap = np.divide(heat, hottest, out=np.zeros_like(heat), where=hottest > 0)
    return normalized


def _logits(network_parts: Parts, activations: tf.Tensor) -> tf.Tensor:
    """Return the log odds or logits, before the last activation; shape (photographs, outputs)."""
    above, last = network_parts.above(activations, training=False), network_parts.last
    return above @ last.kernel + last.bias if isinstance(last, keras.layers.Dense) else above


def parts(network: keras.Model) -> Parts:
    """Split a network at its last convolution and before its last layer; the parts share the network's weights.

    They are for one picture, also if the network mirrors.

    Raises:
        DataError: the network has no convolution or does not end in a head.
    """
    network = mirroring.for_one_picture(network)
    convolutions = [n for n, layer in enumerate(network.layers) if isinstance(layer, keras.layers.Conv2D)]
    head = network.layers[-1]
    last = head.layers[-1] if isinstance(head, keras.Model) else None
    if not convolutions or not isinstance(last, keras.layers.Dense | keras.layers.Activation):
        raise DataError(
            "Heat maps need a network that has a convolution and ends in a head with a dense layer. "
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
    """Return a photograph with a heat map over the region that the network received as input.

    Within this region the photograph is grey below the map's colours, which range from dark blue to light yellow.
    Outside it, the photograph keeps its own colours.

    Args:
        photograph: the uncropped photograph, 8-bit RGB, of any size.
        heat: the photograph's heat map; array of shape (rows, columns), from 0 to 1.
        resizing: how the photograph was resized to the network's input.
    """
    frame = _Box(*(math.floor(edge) for edge in decoding.crop_box(*photograph.size, resizing)))
    visible = _Box(max(frame.left, 0), max(frame.top, 0), *map(min, frame[2:], photograph.size))
    grey = photograph.crop(visible).convert("L").convert("RGB")
    result = photograph.copy()
    result.paste(Image.blend(grey, _coloured(_upsampled(heat, frame, visible)), _OPACITY), visible)
    return result


def _upsampled(heat: HeatMap, frame: _Box, visible: _Box) -> HeatMap:
    """Resize a heat map of `frame` to one value for each pixel of `visible`, which lies within `frame`."""
    rows, columns = heat.shape
    box = (
        (visible.left - frame.left) * columns / frame.width,
        (visible.top - frame.top) * rows / frame.height,
        (visible.right - frame.left) * columns / frame.width,
        (visible.bottom - frame.top) * rows / frame.height,
    )
    return np.asarray(Image.fromarray(heat).resize((visible.width, visible.height), Image.Resampling.BILINEAR, box=box))


def _coloured(heat: HeatMap) -> Image.Image:
    return Image.fromarray(_RAMP.astype(np.uint8)[(heat * 255).round().astype(np.uint8)])
