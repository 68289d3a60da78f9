"""Weights of VGG16's convolutional base: read from the layouts they come in, written in one of our own.

Ours has a group for each convolution, `block1_conv1` to `block5_conv3`, with the float32 datasets `kernel`
(3, 3, in, out) and `bias` (out,), as ImageNet's Keras weights have them: the first convolution takes BGR.
"""

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from transfer.runtime import disk, files
from transfer.runtime.errors import DataError

Array = NDArray[np.float32]


class Convolution(NamedTuple):
    """A convolution's weights."""

    kernel: Array
    bias: Array


Weights = dict[str, Convolution]
Shape = tuple[int, ...]

_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # convolutions and filters of each block
_MAX_DEPTH = 3  # below a layer


def _architecture() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    channels = 3
    for block, (convolutions, filters) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            shapes[f"block{block}_conv{number}"] = (3, 3, channels, filters)
            channels = filters
    return shapes


ARCHITECTURE = _architecture()  # the shape of each convolution's kernel, from the picture upwards


def read(path: Path) -> Weights:
    """Read weights in our layout, Keras's legacy one (`.h5`) or Keras 3's (`.weights.h5`).

    Returns:
        A kernel and a bias for each name of `ARCHITECTURE`, in its order. Other layers are left alone.

    Raises:
        DataError: the file is no HDF5, a convolution is missing or of another shape, or its numbers are not finite
            floats stored in the file itself.
        FileNotFoundError: there is no file; with its name, which h5py leaves out.
        OSError: the disk refuses, likewise.
    """
    try:
        with h5py.File(path, "r") as file:
            groups = _groups(file)
            return {name: _convolution(path.name, name, groups.get(name)) for name in ARCHITECTURE}
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises on damaged files
        disk.reraise_disk_error(error, path)
        raise DataError(
            f"{path.name} must be an HDF5 file with VGG16's weights. Received: {path.stat().st_size:,} bytes, {error}. "
            "Fetch it again."
        ) from None


def write(path: Path, weights: Weights) -> None:
    """Write weights in our layout, whole: the same bytes for the same weights.

    HDF5 makes them in memory: where the disk is full it would end the process with a segmentation fault.
    """
    with h5py.File(path.name, "w", libver=("earliest", "v110"), driver="core", backing_store=False) as file:
        for name in ARCHITECTURE:
            group = file.create_group(name)
            group.create_dataset("kernel", data=weights[name].kernel, dtype="<f4", track_times=False)
            group.create_dataset("bias", data=weights[name].bias, dtype="<f4", track_times=False)
        file.flush()
        files.write_bytes(path, file.id.get_file_image())


def random(seed: int) -> Weights:
    """Draw weights that have learned nothing: He's normal distribution for kernels, zeros for biases."""
    return {
        name: Convolution(_he_normal(np.random.default_rng([seed, number]), shape), np.zeros(shape[-1], np.float32))
        for number, (name, shape) in enumerate(ARCHITECTURE.items())
    }


def _he_normal(generator: np.random.Generator, shape: Shape) -> Array:
    deviation = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    return generator.standard_normal(shape, np.float32) * deviation


def _groups(file: h5py.File) -> dict[str, h5py.Group]:
    """The groups that hold the convolutions, by the convolutions' names."""
    for above in ("layers", "_layer_checkpoint_dependencies", "model_weights"):
        if isinstance(_child(file, above), h5py.Group):
            return _named(_child(file, above))
    return _named(file)


def _named(parent: h5py.Group) -> dict[str, h5py.Group]:
    groups = {name: child for name in parent if isinstance(child := _child(parent, name), h5py.Group)}
    numbered = [f"conv2d_{number}" if number else "conv2d" for number in range(len(ARCHITECTURE))]
    if all(name in groups for name in numbered):  # Keras 3 counts layers of a kind, in the network's order
        return {name: groups[number] for name, number in zip(ARCHITECTURE, numbered, strict=True)}
    return groups


def _child(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """A member that is in the file itself: no soft link, no link to another file."""
    if name not in parent or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return None
    return parent[name]


def _convolution(file: str, name: str, group: h5py.Group | None) -> Convolution:
    kernel, bias = ARCHITECTURE[name], ARCHITECTURE[name][-1:]
    found = [] if group is None else list(_datasets(group, _MAX_DEPTH, set()))
    datasets = {dataset.shape: dataset for dataset in found}
    if len(found) != 2 or set(datasets) != {kernel, bias}:
        received = " and ".join(map(str, datasets)) or "nothing"
        received += f", {len(found)} arrays" if len(found) > 2 else ""
        raise DataError(
            f"{file} must hold VGG16's `{name}`: a kernel {kernel} and a bias {bias}. Received: {received}. "
            "Use weights of Keras's VGG16."
        )
    return Convolution(_array(file, name, datasets[kernel]), _array(file, name, datasets[bias]))


def _datasets(group: h5py.Group, depth: int, seen: set[int]) -> Iterator[h5py.Dataset]:
    """The arrays below a group; none is looked for twice where groups hold each other under many names."""
    for name in group:
        child = _child(group, name)
        if isinstance(child, h5py.Dataset):
            yield child
        elif child is not None and depth and (place := h5py.h5o.get_info(child.id).addr) not in seen:
            seen.add(place)
            yield from _datasets(child, depth - 1, seen)


def _array(file: str, name: str, dataset: h5py.Dataset) -> Array:
    received = f"the type {dataset.dtype}" if dataset.dtype.kind != "f" else ""
    if dataset.is_virtual or dataset.external:
        received = "data stored in another file"
    if dataset.chunks and math.prod(dataset.chunks) > dataset.size:  # read whole, whatever is wanted of it
        received = f"a piece of {dataset.chunks} numbers for an array of {dataset.shape}"
    if received:
        raise DataError(
            f"{file}: `{name}` must be floats stored in the file itself. Received: {received}. "
            "Use weights of Keras's VGG16."
        )
    with np.errstate(over="ignore"):  # becomes infinity, refused below
        array: Array = dataset[()].astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: `{name}` must be finite numbers. Received: NaN or infinity. Fetch the file again.")
    return array
