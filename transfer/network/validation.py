"""Inspection: a network's file looked into before Keras builds what it says.

A `.keras` file says in JSON which classes and functions are to be made and called, and Keras's safe mode, which keeps
the dangerous ones out, has been got round more than once. So only what this project's own networks are made of is let
through: a handful of layers, and numbers that lie in the file.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from transfer.network.backend import keras, tf

_MAX_DEPTH = 8  # groups below each other in a file of weights; this project's networks have five
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, "metadata.json", _WEIGHTS}
_KNOWN: dict[str | None, set[str]] = {
    None: {"__keras_tensor__"},
    "keras": {"DTypePolicy", "Sequential"},
    "keras.initializers": {"GlorotUniform", "HeNormal", "Ones", "Zeros"},
    "keras.layers": {
        "Add",
        "BatchNormalization",
        "Concatenate",
        "Conv2D",
        "Dense",
        "Dropout",
        "Flatten",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "InputLayer",
        "MaxPooling2D",
        "ReLU",
        "Rescaling",
    },
    "keras.regularizers": {"L1L2"},
    "keras.src.models.functional": {"Functional"},
}


def check_model_file(path: Path) -> None:
    """Stop before a file that could make Keras do anything but put layers together and fill them with numbers.

    Raises:
        ValueError: it is no archive of the three members of a network, stored as they are; it asks for something else
            than the layers this project uses; its weights lie elsewhere, or are fewer than the layers have.
        Exception: it is damaged: whatever zipfile, json, h5py and Keras raise then.
    """
    if path.suffix != ".keras":
        raise ValueError("it must be a whole `.keras` archive")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(_MEMBERS):
            raise ValueError(f"it must hold {', '.join(sorted(_MEMBERS))} and nothing else")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members must be stored as they are, not compressed")
        config, weights = json.loads(archive.read(_CONFIG)), archive.read(_WEIGHTS)
    config = {**config, "compile_config": None}  # Keras is told to leave it aside
    _refuse_unknown_classes(config)
    stored, wanted = _numbers(weights), _outline(config).count_params()
    if wanted > stored:
        raise ValueError(f"its layers have {wanted:,} weights, but only {stored:,} are stored in it")


def _refuse_unknown_classes(config: Any) -> None:
    for asked_for in _objects(config):
        name, module = asked_for["class_name"], asked_for.get("module")
        known = isinstance(name, str) and isinstance(module, str | None) and name in _KNOWN.get(module, ())
        if not known or asked_for.get("registered_name") not in (None, name):
            raise ValueError(f"it asks for `{module}.{name}`, which none of this project's networks has")


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Every place in a configuration that makes Keras look for a class or a function."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for each in config:
            yield from _objects(each)


def _numbers(weights: bytes) -> int:
    """How many numbers an HDF5 file holds, all of which must lie in it.

    Raises:
        ValueError: something in it leads elsewhere, or takes more room in memory than in the file, as a chunk may
            that holds more than its dataset.
    """
    with h5py.File(io.BytesIO(weights), "r") as file:
        datasets = list(_datasets(file, _MAX_DEPTH, set()))
        if any(dataset.external or dataset.is_virtual or dataset.dtype.kind not in "fiub" for dataset in datasets):
            raise ValueError("its weights must be numbers stored in the file itself")
        sizes = [dataset.nbytes for dataset in datasets]
        if any(dataset.id.get_storage_size() < dataset.nbytes for dataset in datasets) or sum(sizes) > len(weights):
            raise ValueError("its weights take more room in memory than in the file")
        if any(dataset.chunks for dataset in datasets):
            raise ValueError("its weights must each be stored in one piece")
        return sum(dataset.size for dataset in datasets)


def _datasets(group: h5py.Group, depth: int, seen: set[int]) -> Iterator[h5py.Dataset]:
    """The arrays below a group, each once; a file can be so deep or so entangled that it takes days to walk."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(  # noqa: TRY004 - a value, whatever Python calls it
                f"its weights have the link '{group.name.lstrip('/')}/{name}', which leads elsewhere"
            )
        child = group[name]
        place = h5py.h5o.get_info(child.id).addr
        if place in seen:
            continue
        seen.add(place)
        if isinstance(child, h5py.Dataset):
            yield child
        elif depth:
            yield from _datasets(child, depth - 1, seen)
        else:
            raise ValueError("its weights lie deeper than any network of this project's has them")


def _outline(config: dict[str, Any]) -> keras.Model:
    """The network without its numbers: in a graph nothing is computed, so that no size is too large to be told.

    Raises:
        ValueError: it is none, or takes more than one thing.
    """
    with tf.Graph().as_default():
        outline = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(outline, keras.Model) or len(outline.inputs) != 1:
        raise ValueError("it must be a network that takes photographs or their features")
    return outline
