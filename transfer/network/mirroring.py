"""Mirroring: a network that predicts a photograph from itself and from its mirror image, left to right.

It averages the log odds (logits, for more than two classes) of both, so both have the same prediction: test-time
augmentation, as in Krizhevsky, Sutskever and Hinton, 2012, "ImageNet Classification with Deep Convolutional Neural
Networks", which averages probabilities.
"""

from collections.abc import Sequence
from typing import NamedTuple

from transfer.network.backend import keras

MAX_IMAGE_SIZE = 768  # pixels; `memory.MAX_OUTPUTS` would reject a larger network, which computes two pictures

_WIDTH = 2  # the axis of a batch of pictures along which they are mirrored
_LAYERS_OF_BOTH = ["InputLayer", "InputLayer", "Functional", "Average", "Activation"]


class Parts(NamedTuple):
    """The parts of a network that mirrors: its layers up to the last feature map, and those of its head.

    Attributes:
        trunk: the layers from a picture to its feature map, in order.
        log_odds: from one feature map to log odds.
        activation: from the mean of both log odds to probabilities.
    """

    trunk: list[keras.Layer]
    log_odds: keras.Model
    activation: keras.layers.Activation


def build(photograph: keras.KerasTensor, layers: Sequence[keras.Layer]) -> keras.Model:
    """Build a network that applies layers to a photograph and to its mirror image.

    Args:
        photograph: the input, shape (photographs, height, width, 3).
        layers: from pixels to probabilities; the last one is a head, as for `of_both`, and the network's last one
            is named like it.
    """
    *trunk, head = layers
    feature_maps = []
    for picture in (photograph, keras.ops.flip(photograph, axis=_WIDTH)):
        signal = picture
        for layer in trunk:
            signal = layer(signal)
        feature_maps.append(signal)
    return keras.Model(photograph, of_both(head)(feature_maps), name="mirroring")


def of_both(head: keras.Model) -> keras.Model:
    """Return a head that takes two feature maps, a photograph's and its mirror image's, and averages their log odds.

    It has the name and the weights of the head, in the same order. It shares the head's layers, except for a last dense
    layer with an activation, of which it has a copy.
    """
    log_odds = _log_odds(head)
    shape = head.input_shape[1:]
    feature_maps = [keras.Input(shape, name=name) for name in ("feature_map", "mirrored_feature_map")]
    mean = keras.layers.Average(name="log_odds_of_both")([log_odds(each) for each in feature_maps])
    activation = keras.layers.Activation(head.layers[-1].activation, name="probabilities")
    return keras.Model(feature_maps, activation(mean), name=head.name)


def parts(network: keras.Model) -> Parts | None:
    """Return the parts of a network that `build` has made, which share its layers; None of another network."""
    if isinstance(network, keras.Sequential):
        return None
    head = network.layers[-1]
    layers = head.layers if isinstance(head, keras.Model) else []
    if [type(layer).__name__ for layer in layers] != _LAYERS_OF_BOTH:
        return None
    _, _, log_odds, _, activation = layers
    return Parts(network.layers[1:-1], log_odds, activation) if _applies_layers_twice(network) else None


def for_one_picture(network: keras.Model) -> keras.Model:
    """Return the network that predicts a photograph from itself alone, with the same layers: a sequential network.

    A network that does not mirror is returned as it is.
    """
    found = parts(network)
    if found is None:
        return network
    photograph = keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype, name=network.inputs[0].name)
    activation = keras.layers.Activation(found.activation.activation, name=found.activation.name)
    head = keras.Model(found.log_odds.inputs[0], activation(found.log_odds.outputs[0]), name=network.layers[-1].name)
    return keras.Sequential([photograph, *found.trunk, head])


def _applies_layers_twice(network: keras.Model) -> bool:
    """Return whether a network mirrors once and calls each layer of its trunk twice, with one input, one after another.

    A file from elsewhere may have any other graph of the same layers.
    """
    graph = {entry["config"]["name"]: entry for entry in network.get_config()["layers"]}
    flips = [each for each in network.operations if type(each).__name__ == "Flip"]
    if len(flips) != 1 or flips[0].axis not in (_WIDTH, (_WIDTH,), [_WIDTH]):
        return False
    calls = [graph[layer.name]["inbound_nodes"] for layer in network.layers[1:-1]]
    return all(len(nodes) == 2 and all(isinstance(node["args"][0], dict) for node in nodes) for nodes in calls)


def _log_odds(head: keras.Model) -> keras.Model:
    """Return the part of a head up to its log odds, before its last activation."""
    last, name = head.layers[-1], "log_odds_of_one"
    if isinstance(last, keras.layers.Activation):
        return keras.Model(head.inputs[0], last.input, name=name)
    dense = keras.layers.Dense.from_config({**last.get_config(), "activation": "linear", "name": "log_odds"})
    part = keras.Model(head.inputs[0], dense(last.input), name=name)
    dense.set_weights(last.get_weights())
    return part
