"""Saving: networks as files, the same bytes for the same network, and checked before they are loaded."""

import json
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.network import validation
from transfer.network.backend import keras
from transfer.network.card import FILE_NAME
from transfer.runtime import disk
from transfer.runtime.errors import DataError, rerun_hint
from transfer.runtime.files import atomic_write, sha256, write_json

_NO_DATE = "1980-01-01@00:00:00"
_SHARED = "shared_object_id"
_MAX_REASON = 300  # characters; Keras's messages repeat the configuration


def save(model: keras.Model, path: Path) -> None:
    """Write a network in Keras's format, atomically, without the date and memory addresses that Keras writes.

    Raises:
        DiskError: the disk has too little space for two copies, or the file cannot be written.
    """
    with disk.space_for({path.parent: 2 * size_in_bytes(model)}), atomic_write(path) as temporary:
        original = temporary.with_name(f"{temporary.name}.keras")  # `atomic_write` removes it if this process is killed
        try:
            model.save(original)
            with zipfile.ZipFile(original) as source, zipfile.ZipFile(temporary, "w") as target:
                for name in sorted(source.namelist()):
                    normalize = _NORMALIZE.get(name, bytes)
                    target.writestr(zipfile.ZipInfo(name), normalize(source.read(name)))
        finally:
            original.unlink(missing_ok=True)


def write(file: Path, network: keras.Model, card: dict[str, Any]) -> None:
    """Write a network and, in the same folder, its `model.json`, which holds the network's SHA-256."""
    save(network, file)
    write_json(file.with_name(FILE_NAME), {**card, "sha256": sha256(file)})


def size_in_bytes(model: keras.Model) -> int:
    """Estimate the size of a network's file: its weights and, if it is compiled, its optimizer's variables."""
    return bytes_of_variables([*model.weights, *(model.optimizer.variables if model.compiled else [])])


def bytes_of_variables(variables: Iterable[keras.Variable]) -> int:
    """Return the size of some variables' values in bytes."""
    return sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)


def load(path: Path) -> keras.Model:
    """Load a network without compiling it.

    Raises:
        DataError: the file is missing, damaged, or not a network that this project saves; no code in it has run.
        OSError: the file cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. Run `dvc repro` to make it, or `dvc pull` if a remote has it.")
    try:
        validation.check_model_file(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 (Keras raises nearly anything on a damaged or hostile file)
        disk.reraise_disk_error(error, path)
        raise DataError(
            f"{path} is not a network this project saved: {_one_line(error)}. Rerun the stage that writes it."
        ) from None


def predict(network: Callable[..., Any], rows: NDArray[Any] | list[Any]) -> NDArray[np.float64]:
    """Return the probability of each class; a single output is the probability of the second of two classes.

    Args:
        network: a network, or a function with the same call.
        rows: a batch of inputs, shape (photographs, ...), or a list of one for each input of the network.

    Returns:
        Probabilities of shape (photographs, classes), from 0 to 1; rows sum to one.

    Raises:
        DataError: an output is NaN or infinite.
    """
    return probabilities(network(rows, training=False))


def probabilities(tensor: Any) -> NDArray[np.float64]:
    """Return the probability of each class from a network's output, as `predict` does."""
    outputs = keras.ops.convert_to_numpy(tensor).astype(np.float64)
    if not np.isfinite(outputs).all():
        raise DataError(
            "The network's probabilities must be finite. Received: NaN or infinity. "
            f"{rerun_hint('train_head', 'fine_tune')}"
        )
    if outputs.shape[1] == 1:
        return np.hstack([1 - outputs, outputs])
    normalized: NDArray[np.float64] = outputs / outputs.sum(axis=1, keepdims=True)
    return normalized


def _one_line(error: Exception) -> str:
    """Return an error's message in one line, shortened and without control characters."""
    return "".join(filter(str.isprintable, " ".join(str(error).split())))[:_MAX_REASON].rstrip(".")


def _without_date(metadata: bytes) -> bytes:
    content: dict[str, Any] = json.loads(metadata)
    return json.dumps({**content, "date_saved": _NO_DATE}).encode()


def _without_addresses(config: bytes) -> bytes:
    """Replace the ids of shared objects, which are memory addresses, by numbers in order of appearance."""
    numbers: dict[int, int] = {}

    def renumber(value: dict[str, Any]) -> dict[str, Any]:
        address = value.get(_SHARED)
        return value if address is None else {**value, _SHARED: numbers.setdefault(address, len(numbers) + 1)}

    return json.dumps(json.loads(config, object_hook=renumber)).encode()


_NORMALIZE = {"metadata.json": _without_date, "config.json": _without_addresses}
