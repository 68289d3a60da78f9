"""ONNX: a network in the format of ONNX Runtime, which also runs in browsers and from other languages.

The graph is built directly from the layers that `fine_tune` saves, which are few; converters of Keras's networks need
other versions of TensorFlow's dependencies.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from transfer.network import mirroring
from transfer.network.backend import keras
from transfer.runtime.errors import DataError

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes of all platforms know them
INPUT, OUTPUT = "photograph", "probabilities"
_ERRORS = 3  # of ONNX Runtime's log levels
_LAST_TO_FIRST, _FIRST_TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # of channels
_WIDTH = 3  # the axis of pictures whose channels are first


class _Graph:
    """The nodes and constants of a graph under construction; values are named after the layers that compute them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, and return the name of its output."""
        name = f"{operator}_{len(self.nodes) + 1}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Append a constant in float32, and return its name."""
        return self._append(np.ascontiguousarray(values, np.float32))

    def integers(self, *values: int) -> str:
        """Append a constant of integers, such as an axis, and return its name."""
        return self._append(np.array(values, np.int64))

    def _append(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants) + 1}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


_Layer = Callable[[_Graph, keras.Layer, list[str]], str]  # from the names of its inputs to that of its output


def convert(network: keras.Model) -> bytes:
    """Return a network as ONNX; the same bytes for the same network.

    Its input `photograph` is RGB as uint8 of shape (photographs, height, width, 3), and its output `probabilities` is
    float32 of shape (photographs, outputs), as those of the network.

    Raises:
        DataError: the network has a layer that no network of this project has.
    """
    graph, mirrored = _Graph(), mirroring.parts(network)
    pixels = graph.add("Transpose", graph.add("Cast", INPUT, to=TensorProto.FLOAT), perm=_LAST_TO_FIRST)
    result = _mirroring(graph, mirrored, pixels) if mirrored else _network(graph, network, [pixels])
    graph.nodes.append(helper.make_node("Identity", [result], [OUTPUT], name=OUTPUT))
    shapes = [["photographs", *shape[1:]] for shape in (network.inputs[0].shape, network.outputs[0].shape)]
    content = helper.make_graph(
        graph.nodes,
        "classifier",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shapes[0])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shapes[1])],
        graph.constants,
    )
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def function(content: bytes) -> Callable[..., NDArray[Any]]:
    """Return an ONNX model as a function from photographs, shape (photographs, height, width, 3), to its output.

    The result has the call of a network.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(photographs: NDArray[np.uint8], *, training: bool = False) -> NDArray[Any]:  # noqa: ARG001 - of the call of Keras
        [output] = session.run([OUTPUT], {INPUT: photographs})
        probabilities: NDArray[Any] = output
        return probabilities

    return run


def _network(graph: _Graph, network: keras.Layer, inputs: list[str]) -> str:
    """Add all layers of a network; those of a sequential one follow each other, others know their inputs."""
    if isinstance(network, keras.Sequential):
        for layer in network.layers:
            inputs = [_layer(graph, layer, inputs)]
        return inputs[0]
    names = {id(network.inputs[0]): inputs[0]}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            names[id(layer.output)] = _layer(
                graph, layer, [names[id(each)] for each in keras.tree.flatten(layer.input)]
            )
    return names[id(network.outputs[0])]


def _mirroring(graph: _Graph, parts: mirroring.Parts, pixels: str) -> str:
    """Add a network that mirrors; pictures and mirror images are one batch, so that the file has its weights once."""
    backwards = [graph.integers(value) for value in (-1, np.iinfo(np.int64).min, _WIDTH, -1)]  # start, end, axis, step
    signal = graph.add("Concat", pixels, graph.add("Slice", pixels, *backwards), axis=0)
    for layer in [*parts.trunk, parts.log_odds]:
        signal = _layer(graph, layer, [signal])
    pairs = graph.add("Reshape", signal, graph.integers(2, -1, parts.log_odds.output_shape[-1]))
    return _activation(graph, parts.activation, [graph.add("ReduceMean", pairs, axes=[0], keepdims=0)])


def _layer(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    kind = "Model" if isinstance(layer, keras.Model) else type(layer).__name__
    if kind not in _LAYERS:
        raise DataError(
            f"A network for ONNX must have layers among {', '.join(_LAYERS)}. Received: {kind} (`{layer.name}`)."
        )
    return _LAYERS[kind](graph, layer, inputs)


def _rescaling(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    scale, offset = (np.broadcast_to(each, 3).reshape(3, 1, 1) for each in (layer.scale, layer.offset))
    return graph.add("Add", graph.add("Mul", inputs[0], graph.constant(scale)), graph.constant(offset))


def _convolution(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    kernel, bias = layer.get_weights()
    padding = {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]
    constants = graph.constant(kernel.transpose(3, 2, 0, 1)), graph.constant(bias)
    output = graph.add("Conv", inputs[0], *constants, auto_pad=padding, strides=layer.strides)
    return _activation(graph, layer, [output])


def _pooling(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    return graph.add("MaxPool", inputs[0], kernel_shape=layer.pool_size, strides=layer.strides)


def _global(operator: str) -> _Layer:
    return lambda graph, _, inputs: graph.add("Flatten", graph.add(operator, inputs[0]))


def _flatten(graph: _Graph, _: keras.Layer, inputs: list[str]) -> str:
    """Flatten in the order of Keras, in which channels are last."""
    return graph.add("Flatten", graph.add("Transpose", inputs[0], perm=_FIRST_TO_LAST))


def _batch_normalization(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    constants = map(graph.constant, layer.get_weights())  # scale, offset, mean and variance, in ONNX's order
    return graph.add("BatchNormalization", inputs[0], *constants, epsilon=layer.epsilon)


def _dense(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    output = graph.add("Gemm", inputs[0], *map(graph.constant, layer.get_weights()))
    return _activation(graph, layer, [output])


def _activation(graph: _Graph, layer: keras.Layer, inputs: list[str]) -> str:
    name, [signal] = layer.activation.__name__, inputs
    match name:
        case "linear":
            return signal
        case "silu":
            return graph.add("Mul", signal, graph.add("Sigmoid", signal))
        case "gelu":
            curve = graph.add("Erf", graph.add("Mul", signal, graph.constant(np.array(math.sqrt(0.5)))))
            half = graph.add("Mul", signal, graph.constant(np.array(0.5)))
            return graph.add("Mul", half, graph.add("Add", curve, graph.constant(np.array(1.0))))
    return graph.add(name.capitalize(), signal)  # ONNX has the others under Keras's names


_LAYERS: dict[str, _Layer] = {
    "Activation": _activation,
    "Average": lambda graph, _, inputs: graph.add("Mean", *inputs),
    "BatchNormalization": _batch_normalization,
    "Concatenate": lambda graph, _, inputs: graph.add("Concat", *inputs, axis=1),
    "Conv2D": _convolution,
    "Dense": _dense,
    "Dropout": lambda _graph, _, inputs: inputs[0],
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global("GlobalAveragePool"),
    "GlobalMaxPooling2D": _global("GlobalMaxPool"),
    "MaxPooling2D": _pooling,
    "Model": _network,
    "Rescaling": _rescaling,
}
