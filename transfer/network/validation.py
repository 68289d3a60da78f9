"""Validation: a `.keras` file is checked before Keras opens it.

A `.keras` file names classes and functions that Keras calls, and Keras's safe mode has been bypassed more than once. So
only the layers of this project's networks are allowed, and only numbers that are in the file itself.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from transfer.network import hdf5, memory

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = [_CONFIG, "metadata.json", _WEIGHTS]
_CONVOLUTIONAL = {"Conv2D", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "MaxPooling2D", "Rescaling"}
_OTHER_LAYERS = {
    *("Activation", "Add", "Average", "BatchNormalization", "Concatenate", "Dense", "Dropout", "InputLayer", "ReLU")
}
_ALLOWED: dict[str | None, set[str]] = {  # class names by module
    None: {"__keras_tensor__"},
    "keras": {"DTypePolicy", "Sequential"},
    "keras.initializers": {"GlorotUniform", "HeNormal", "Ones", "Zeros"},
    "keras.layers": _CONVOLUTIONAL | _OTHER_LAYERS,
    "keras.regularizers": {"L1L2"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.ops.numpy": {"Flip"},
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
    memory.check_calls(config)
    memory.check_sizes(config, stored=_count_stored(weights))


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


def _count_stored(weights: bytes) -> int:
    """Count the numbers of an HDF5 file; uncompressed, they take no more memory than the file."""
    with h5py.File(io.BytesIO(weights), "r") as file:
        datasets = list(hdf5.datasets(file))
        if any(hdf5.is_stored_elsewhere(each) or each.chunks or each.dtype.kind not in "fiub" for each in datasets):
            raise ValueError("its weights must be numbers stored in the file itself, without compression")
        if sum(dataset.nbytes for dataset in datasets) > len(weights):
            raise ValueError("its weights take more memory than the file")
        return sum(dataset.size for dataset in datasets)
