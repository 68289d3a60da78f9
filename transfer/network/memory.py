"""Memory: a network that would take too much memory or time is found by its configuration, before it is computed.

A small file can ask for more memory than any machine has: few weights may have large outputs.
"""

import math
from typing import Any

from transfer.network.backend import keras, tf

MAX_CALLS = 6_000  # of layers; the deepest network that the parameters allow has 5,600 layers
MAX_OPERATIONS = 1 << 40  # multiplications and comparisons for one photograph; VGG16 at 1,024 pixels has 0.32 trillion
MAX_OUTPUTS = 1 << 30  # numbers that all operations return for one photograph; VGG16 at 1,024 pixels has 0.91 billion

_READ = "ReadVariableOp"  # of weights, which it does not copy: a file can have no more than it stores


def check_calls(config: dict[str, Any]) -> None:
    """Check how often Keras would call layers; models within models, each called twice, double this at each level.

    Args:
        config: the network's configuration.

    Raises:
        ValueError: more than `MAX_CALLS` times.
    """
    calls = _count_calls(config)
    if calls > MAX_CALLS:
        raise ValueError(f"Keras would call its layers {calls:.3g} times to build it, more than {MAX_CALLS:,} times")


def _count_calls(model: dict[str, Any]) -> int:
    """Count the calls of layers while a model is built; a Sequential is built again for each layer it gets."""
    layers = model["config"].get("layers") if isinstance(model["config"], dict) else None
    if not isinstance(layers, list):
        return 1
    times = len(layers) if model["class_name"] == "Sequential" else 1
    return times * sum(max(1, len(layer.get("inbound_nodes") or [])) * _count_calls(layer) for layer in layers)


def check_sizes(config: dict[str, Any], *, stored: int) -> None:
    """Check a network's weights and outputs in a graph: it has their shapes, and no memory is taken for their values.

    Args:
        config: the network's configuration.
        stored: the number of weights in its file.

    Raises:
        ValueError: it has more weights than are stored, an input of unknown size, more than `MAX_OUTPUTS` outputs,
            or more than `MAX_OPERATIONS` operations.
    """
    with tf.Graph().as_default() as graph:
        network = _build(config)
        if network.count_params() > stored:
            raise ValueError(
                f"its layers have {network.count_params():,} weights, but only {stored:,} are stored in it"
            )
        built = len(graph.get_operations())
        photograph = tf.compat.v1.placeholder(network.inputs[0].dtype, (1, *network.input_shape[1:]))
        network(photograph, training=False)
        operations = graph.get_operations()[built:]
        tensors = [tensor for each in operations if each.type != _READ for tensor in each.outputs]
    if not all(tensor.shape.is_fully_defined() for tensor in tensors):
        raise ValueError("its input must have a fixed size")
    outputs = sum(math.prod(tensor.shape) for tensor in tensors)
    if outputs > MAX_OUTPUTS:
        raise ValueError(f"its layers return {outputs:.3g} numbers for a photograph, more than {MAX_OUTPUTS:.3g}")
    work = sum(map(_count_work, operations))
    if work > MAX_OPERATIONS:
        raise ValueError(f"its layers compute {work:.3g} products for a photograph, more than {MAX_OPERATIONS:.3g}")


def _count_work(operation: tf.Operation) -> int:
    """Count the multiplications of a convolution or a dense layer, or the comparisons of a pooling layer."""
    results = sum(math.prod(tensor.shape) for tensor in operation.outputs)
    match operation.type:
        case "Conv2D":
            return int(results * math.prod(operation.inputs[1].shape[:-1]))
        case "MatMul":
            return int(results * operation.inputs[1].shape[0])
        case "MaxPool":
            return int(results * math.prod(operation.get_attr("ksize")))
    return 0


def _build(config: dict[str, Any]) -> keras.Model:
    network = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(network, keras.Model) or len(network.inputs) != 1:
        raise ValueError("it must be a network with one input")
    return network
