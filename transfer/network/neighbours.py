"""Neighbours: rows of the training photographs as a file, and the distance of other photographs to them.

A row is the mean of the network's last feature map over its places, divided by its length.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from transfer.network.thresholds import Thresholds
from transfer.runtime import files
from transfer.runtime.errors import DataError

FILE_NAME = "rows.npz"
_MEMBER = "rows.npy"
_MAX_BYTES = 1 << 28  # of the file: 260,000 photographs with 512 channels

Rows = NDArray[np.float32]  # shape (photographs, channels)
Distance = Callable[[Rows], NDArray[np.float64]]  # of rows; the result has the shape (photographs,)


def normalize(means: Rows) -> Rows:
    """Return mean activations, divided by their length; a row without any activation stays zero."""
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    rows: Rows = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 0)
    return rows


def write(path: Path, rows: Rows) -> str:
    """Write the rows of the training photographs as float16, atomically; return the file's SHA-256."""
    content = io.BytesIO()
    np.savez(content, rows=rows.astype(np.float16))
    files.write_bytes(path, content.getvalue())
    return files.sha256(path)


def read(path: Path, *, sha256: str, channels: int, hint: str) -> Rows:
    """Read the rows of the training photographs; nothing is unpickled.

    Args:
        path: the file.
        sha256: that it must have.
        channels: that each row must have.
        hint: a sentence for error messages: what the user should do.

    Raises:
        DataError: it is missing, another file, or no table of finite numbers of that width.
    """
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise DataError(
            f"{path} must be the rows of the training photographs, of {_MAX_BYTES >> 20} MiB at most. "
            f"Received: {'a larger file' if path.is_file() else 'no such file'}. {hint}"
        )
    received = files.sha256(path)
    if received != sha256:
        raise DataError(
            f"{path} must have the sha256 of the network's card, which begins with {sha256[:12]}. "
            f"Received: {received[:12]}. {hint}"
        )
    try:
        rows = _read_array(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - zipfile and NumPy raise nearly anything on damaged bytes
        raise DataError(f"{path} must be an array as this project writes it. Received: {error}. {hint}") from None
    is_table = rows.ndim == 2 and len(rows) > 0 and rows.shape[1] == channels
    if rows.dtype != np.float16 or not is_table or not np.isfinite(rows).all():
        raise DataError(
            f"{path} must have one or more rows of {channels} finite numbers of float16. "
            f"Received: {rows.dtype}, {rows.shape}. {hint}"
        )
    return rows.astype(np.float32)


def distance_to(rows: Rows, *, neighbours: int) -> Distance:
    """Return a function that measures the distance of rows to the `neighbours`-th nearest of the given ones."""
    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(rows)), algorithm="brute").fit(rows)
    return lambda others: nearest.kneighbors(others)[0][:, -1].astype(np.float64)


def distance(rows: Rows, network: Path, fitted: Thresholds, *, hint: str) -> NDArray[np.float64]:
    """Return the distance of rows to the training photographs of a network, whose rows are in its folder.

    Raises:
        DataError: see `read`.
    """
    training = read(network.with_name(FILE_NAME), sha256=fitted.rows, channels=rows.shape[1], hint=hint)
    return distance_to(training, neighbours=fitted.neighbours)(rows)


def _read_array(content: bytes) -> NDArray[np.float16]:
    """Read the array of an archive that holds nothing else, uncompressed, so that it takes no more memory."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [member] = archive.infolist()
        if member.filename != _MEMBER or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"another archive than one of {_MEMBER}, uncompressed")
        file = io.BytesIO(archive.read(member))
    array: NDArray[np.float16] = np.lib.format.read_array(file, allow_pickle=False)
    return array
