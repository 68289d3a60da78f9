"""Resume: the state of a training run after its last complete epoch, from which a killed run goes on."""

import hashlib
import io
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.network.backend import keras
from transfer.runtime import disk, files, locks, paths
from transfer.runtime.code_digest import code_digest
from transfer.runtime.errors import DataError
from transfer.training.history import History

log = logging.getLogger(__name__)

_STATE, _BEST = "state.npz", "best.npz"  # not HDF5: on a full disk it ends the process with a segmentation fault
_HISTORY = "history.json"


def scratch_folder(stage: str, settings: dict[str, Any], inputs: dict[str, Any], *, entry: Path | None = None) -> Path:
    """Return the folder for a training run's state, below the stage's own.

    Runs share a folder only if they have the same stage, settings, inputs, version of Keras and code: otherwise the
    state of one is no state of the other. Comments and docstrings are no part of the code.

    Args:
        stage: name of the stage.
        settings: the stage's parameters.
        inputs: SHA-256 of the run's inputs.
        entry: module that starts the training; with all that it imports it is the code. By default `fit`.
    """
    code = code_digest(entry or Path(__file__).with_name("fit.py"))
    key = json.dumps([stage, settings, inputs, keras.__version__, code], sort_keys=True)
    return paths.scratch("training", stage, hashlib.sha256(key.encode()).hexdigest()[:16])


def checkpoints_folder(scratch: Path) -> Path:
    """Return the folder in which a run collects its checkpoints."""
    return scratch / "checkpoints"


@contextmanager
def exclusive(scratch: Path, name: str) -> Iterator[None]:
    """Keep other processes out of a scratch folder while the block runs.

    Raises:
        LockedError: another process trains there.
    """
    busy = (
        f"Another process, perhaps one that outlived its `dvc repro`, is training {name} in {scratch}. "
        "Wait for it or end it, then run again."
    )
    with locks.exclusive(scratch / "lock", busy=busy):
        yield


def restore(model: keras.Model, scratch: Path, name: str) -> History:
    """Load the state after the last complete epoch, if there is one.

    Args:
        model: compiled; its weights and optimizer are changed in place.
        scratch: the run's scratch folder.
        name: of the stage, for messages.

    Returns:
        The history up to that epoch; empty if there is none.

    Raises:
        DataError: the state is damaged; it has been removed.
    """
    backups = sorted(scratch.glob("epoch-*"))
    if not backups:
        return []
    backup = backups[-1]
    try:
        _load_state(model, _read_arrays(backup / _STATE))
        history: History = json.loads((backup / _HISTORY).read_text(encoding="utf-8"))
        if (backup / _BEST).exists():
            shutil.copyfile(backup / _BEST, scratch / _BEST)
    except Exception as error:  # noqa: BLE001 (NumPy and zipfile raise nearly anything on damaged bytes)
        disk.reraise_disk_error(error, scratch)
        shutil.rmtree(scratch)
        raise DataError(
            f"The saved state of an interrupted training run must be complete. Received: {backup}, {error}. "
            f"It has been removed: run again, and {name} starts at its first epoch."
        ) from None
    log.info("%s: goes on after epoch %d.", name, len(history))
    return history


def back_up(scratch: Path, model: keras.Model, history: History) -> None:
    """Write the state after an epoch, atomically, and remove those of earlier epochs.

    Raises:
        DiskError: there is too little space for it.
    """
    earlier = list(scratch.glob("epoch-*"))
    with files.atomic_folder(scratch / f"epoch-{len(history):04}") as folder:
        _write_arrays(folder / _STATE, _state(model))
        if (scratch / _BEST).exists():
            shutil.copyfile(scratch / _BEST, folder / _BEST)
        files.write_json(folder / _HISTORY, history)
    for backup in earlier:
        shutil.rmtree(backup)


def write_best(scratch: Path, model: keras.Model) -> None:
    """Write the weights of the best epoch.

    Raises:
        DiskError: there is too little space for them.
    """
    _write_arrays(scratch / _BEST, model.get_weights())


def read_best(scratch: Path) -> list[NDArray[Any]]:
    """Read the weights that `write_best` wrote."""
    return _read_arrays(scratch / _BEST)


def discard(scratch: Path) -> None:
    """Remove the state of a finished run, and that of abandoned runs of the same stage."""
    files.remove_folder(scratch.parent)


def _state(model: keras.Model) -> list[NDArray[Any]]:
    """Return the arrays of a state: the weights, then the optimizer's variables."""
    return [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]


def _load_state(model: keras.Model, state: list[NDArray[Any]]) -> None:
    count = len(model.weights)
    model.set_weights(state[:count])
    for variable, value in zip(model.optimizer.variables, state[count:], strict=True):
        variable.assign(value)


def _write_arrays(path: Path, arrays: list[NDArray[Any]]) -> None:
    with disk.space_for({path.parent: sum(array.nbytes for array in arrays)}), path.open("wb") as file:
        np.savez(file, *arrays)


def _read_arrays(path: Path) -> list[NDArray[Any]]:
    """Read arrays; each member as a whole first, so that zipfile compares its checksum before NumPy parses it."""
    with zipfile.ZipFile(path) as archive:
        names = [f"arr_{number}.npy" for number in range(len(archive.namelist()))]
        return [np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False) for name in names]
