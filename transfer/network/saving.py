"""Models as files: networks saved to the same bytes whenever they are the same, and read back with care."""

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

_TIMELESS = "1980-01-01@00:00:00"
_SHARED = "shared_object_id"
_MAX_REASON = 300  # characters: Keras repeats the whole configuration


def save(model: keras.Model, path: Path) -> None:
    """Write a network in Keras's own format, whole, without the time of day and addresses in memory in it.

    Raises:
        DiskError: the disk has no room for it twice, or refuses.
    """
    with disk.space_for({path.parent: 2 * size_in_bytes(model)}), atomic_write(path) as beside:
        dated = beside.with_name(f"{beside.name}.keras")  # removed by the next to write here, should this be killed
        try:
            model.save(dated)
            with zipfile.ZipFile(dated) as source, zipfile.ZipFile(beside, "w") as target:
                for name in sorted(source.namelist()):
                    stable = _STABLE.get(name, bytes)
                    target.writestr(zipfile.ZipInfo(name), stable(source.read(name)))
        finally:
            dated.unlink(missing_ok=True)


def write(file: Path, network: keras.Model, card: dict[str, Any]) -> None:
    """Write a network and, beside it, its `model.json`, which knows the file by its sha256."""
    save(network, file)
    write_json(file.with_name(FILE_NAME), {**card, "sha256": sha256(file)})


def size_in_bytes(model: keras.Model) -> int:
    """About how many bytes a network takes as a file: its weights, and its optimizer's if it is compiled."""
    return bytes_of_variables([*model.weights, *(model.optimizer.variables if model.compiled else [])])


def bytes_of_variables(variables: Iterable[keras.Variable]) -> int:
    """How many bytes the numbers of these variables take."""
    return sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)


def load(path: Path) -> keras.Model:
    """Read a network, not compiled.

    Raises:
        DataError: the file is no network of this project's, whatever else it may be; nothing in it was run.
        OSError: the disk refuses.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. Run `dvc repro` to have it made, or `dvc pull` where a remote has it.")
    try:
        validation.check_model_file(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 (Keras raises nearly anything on a damaged or hostile file)
        disk.reraise_disk_error(error, path)
        raise DataError(
            f"{path} is not a network this project saved: {_in_a_line(error)}. Rerun the stage that makes it."
        ) from None


def predict(network: Callable[..., Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """The probability of each class; a single output is the probability of the second of two.

    Args:
        network: a network, or a function that is called like one.
        rows: what it takes, one for each photograph.

    Returns:
        Array of shape (photographs, classes), from 0 to 1; rows sum to one.

    Raises:
        DataError: the network gives no finite numbers.
    """
    given = keras.ops.convert_to_numpy(network(rows, training=False)).astype(np.float64)
    if not np.isfinite(given).all():
        raise DataError(
            f"The network must give finite probabilities. Received: NaN. {rerun_hint('train_head', 'fine_tune')}"
        )
    if given.shape[1] == 1:
        return np.hstack([1 - given, given])
    whole: NDArray[np.float64] = given / given.sum(axis=1, keepdims=True)
    return whole


def _in_a_line(error: Exception) -> str:
    """What was raised, short and without what a terminal would obey."""
    return "".join(filter(str.isprintable, " ".join(str(error).split())))[:_MAX_REASON].rstrip(".")


def _undated(metadata: bytes) -> bytes:
    content: dict[str, Any] = json.loads(metadata)
    return json.dumps({**content, "date_saved": _TIMELESS}).encode()


def _numbered(config: bytes) -> bytes:
    """Name shared objects by the order in which they come; Keras names them by where they lay in memory."""
    numbers: dict[int, int] = {}

    def numbered(value: dict[str, Any]) -> dict[str, Any]:
        address = value.get(_SHARED)
        return value if address is None else {**value, _SHARED: numbers.setdefault(address, len(numbers) + 1)}

    return json.dumps(json.loads(config, object_hook=numbered)).encode()


_STABLE = {"metadata.json": _undated, "config.json": _numbered}
