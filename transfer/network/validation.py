"""Validation: a `.keras` file is checked before Keras opens it.

A `.keras` file names classes and functions that Keras calls, and Keras's safe mode has been bypassed more than once. So
only the layers of this project's networks are allowed, and only numbers that are in the file itself. A small file can
also ask for more memory than any machine has, so the layers' outputs are measured before anything is computed.
"""

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from transfer.network import hdf5
from transfer.network.backend import keras, tf

MAX_CALLS = 6_000  # of layers; the deepest network that the parameters allow has 5,600 layers
MAX_OUTPUTS = 1 << 30  # numbers that all operations return for one photograph; VGG16 at 1,024 pixels has 0.91 billion

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = [_CONFIG, "metadata.json", _WEIGHTS]
_CONVOLUTIONAL = {"Conv2D", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "MaxPooling2D", "Rescaling"}
_OTHER_LAYERS = {"Add", "BatchNormalization", "Concatenate", "Dense", "Dropout", "InputLayer", "ReLU"}
_ALLOWED: dict[str | None, set[str]] = {  # class names by module
    None: {"__keras_tensor__"},
    "keras": {"DTypePolicy", "Sequential"},
    "keras.initializers": {"GlorotUniform", "HeNormal", "Ones", "Zeros"},
    "keras.layers": _CONVOLUTIONAL | _OTHER_LAYERS,
    "keras.regularizers": {"L1L2"},
    "keras.src.models.functional": {"Functional"},
}


def check_model_file(path: Path) -> None:
    """Check that Keras would build only allowed layers from a file and fill them with numbers stored in it.

    Raises:
        ValueError: it has other members, names another class, lacks weights, or needs too much memory to predict one
            photograph. A damaged file raises nearly anything.
    """
    if path.suffix != ".keras":
        raise ValueError("it must be a `.keras` archive")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != _MEMBERS:
            raise ValueError(f"it must hold {', '.join(_MEMBERS)} and nothing else")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members must be stored without compression")
        config = {**json.loads(archive.read(_CONFIG)), "compile_config": None}  # `compile=False` ignores it
        weights = archive.read(_WEIGHTS)
    _check_classes(config)
    _check_calls(config)
    _check_sizes(config, stored=_count_stored(weights))


def _check_classes(config: Any) -> None:
    for item in _objects(config):
        name, module = item["class_name"], item.get("module")
        allowed = isinstance(name, str) and isinstance(module, str | None) and name in _ALLOWED.get(module, ())
        if not allowed or item.get("registered_name") not in (None, name):
            raise ValueError(f"it asks for `{module}.{name}`, which none of this project's networks has")


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a configuration for which Keras looks up a class or a function."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        config = list(config.values())
    for part in config if isinstance(config, list) else []:
        yield from _objects(part)


def _check_calls(config: dict[str, Any]) -> None:
    """Check how often Keras would call layers; models within models, each called twice, double this at each level."""
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


def _count_stored(weights: bytes) -> int:
    """Count the numbers of an HDF5 file; uncompressed, they take no more memory than the file."""
    with h5py.File(io.BytesIO(weights), "r") as file:
        datasets = list(hdf5.datasets(file))
        if any(hdf5.is_stored_elsewhere(each) or each.chunks or each.dtype.kind not in "fiub" for each in datasets):
            raise ValueError("its weights must be numbers stored in the file itself, without compression")
        if sum(dataset.nbytes for dataset in datasets) > len(weights):
            raise ValueError("its weights take more memory than the file")
        return sum(dataset.size for dataset in datasets)


def _check_sizes(config: dict[str, Any], *, stored: int) -> None:
    """Check a network's weights and outputs in a graph: it has their shapes, and no memory is taken for their values.

    Args:
        config: the network's configuration.
        stored: the number of weights in its file.
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
        tensors = [tensor for operation in graph.get_operations()[built:] for tensor in operation.outputs]
    if not all(tensor.shape.is_fully_defined() for tensor in tensors):
        raise ValueError("its input must have a fixed size")
    outputs = sum(math.prod(tensor.shape) for tensor in tensors)
    if outputs > MAX_OUTPUTS:
        raise ValueError(f"its layers return {outputs:.3g} numbers for a photograph, more than {MAX_OUTPUTS:.3g}")


def _build(config: dict[str, Any]) -> keras.Model:
    network = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(network, keras.Model) or len(network.inputs) != 1:
        raise ValueError("it must be a network with one input")
    return network
