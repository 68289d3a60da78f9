"""Weights of VGG16's convolutional base: read from Keras's HDF5 layouts, written in the project's layout.

The project's layout has a group for each convolution, `block1_conv1` to `block5_conv3`, with the float32 datasets
`kernel` (3, 3, in, out) and `bias` (out,). As in Keras's weights for ImageNet, the first convolution takes BGR.
"""

import errno
import math
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from transfer.network import hdf5
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


def _architecture() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    channels = 3
    for block, (convolutions, filters) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            shapes[f"block{block}_conv{number}"] = (3, 3, channels, filters)
            channels = filters
    return shapes


_PIXELS = np.float32(64)  # about the deviation of photographs' pixels, so that activations are of the order of 1
_RANDOM_PART = np.float32(0.5)  # of the filters of random weights, relative to the part that passes a channel on

ARCHITECTURE = _architecture()  # shape of each convolution's kernel, from input to output


def read(path: Path) -> Weights:
    """Read weights in the project's layout, Keras's legacy layout (`.h5`) or that of Keras 3 (`.weights.h5`).

    Returns:
        A kernel and a bias for each name of `ARCHITECTURE`, in its order. Other layers are ignored.

    Raises:
        DataError: the file is not HDF5, a convolution is missing or has another shape, or its numbers are not finite
            floats stored in the file itself.
        FileNotFoundError: there is no such file; the error names it, which h5py's does not.
        OSError: the file cannot be read; the error names it.
    """
    try:
        with h5py.File(path, "r") as file:
            groups = _groups(file)
            return {name: _convolution(path.name, name, groups.get(name)) for name in ARCHITECTURE}
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # by h5py on damaged files, and by `hdf5.datasets`
        disk.reraise_disk_error(error, path)
        raise DataError(
            f"{path.name} must be an HDF5 file with VGG16's weights. Received: {path.stat().st_size:,} bytes, {error}. "
            "Fetch it again."
        ) from None


def write(path: Path, weights: Weights) -> None:
    """Write weights in the project's layout, atomically, the same bytes for the same weights.

    HDF5 builds the file in memory: writing to a full disk, it would end the process with a segmentation fault.
    """
    with h5py.File(path.name, "w", libver=("earliest", "v110"), driver="core", backing_store=False) as file:
        for name in ARCHITECTURE:
            group = file.create_group(name)
            group.create_dataset("kernel", data=weights[name].kernel, dtype="<f4", track_times=False)
            group.create_dataset("bias", data=weights[name].bias, dtype="<f4", track_times=False)
        file.flush()
        files.write_bytes(path, file.id.get_file_image())


def random(seed: int) -> Weights:
    """Draw untrained weights whose features tell shapes apart; from layers of He's distribution alone, they hardly do.

    The first convolution detects edges: at each colour its kernels sum to zero, so plain surfaces do not matter. Every
    other filter passes one channel on, plus a random part half as large, as in DiracNets (Zagoruyko and Komodakis,
    2017), so that layers neither lose what earlier ones found nor change its scale. Biases are zero.
    """
    return {
        name: Convolution(_random_kernel(np.random.default_rng([seed, number]), shape), np.zeros(shape[-1], np.float32))
        for number, (name, shape) in enumerate(ARCHITECTURE.items())
    }


def _random_kernel(generator: np.random.Generator, shape: Shape) -> Array:
    if shape == ARCHITECTURE["block1_conv1"]:
        return _unit_filters(_edges(generator, shape)) / _PIXELS
    kernel = _RANDOM_PART * _unit_filters(generator.standard_normal(shape, np.float32))
    filters = np.arange(shape[-1])
    kernel[1, 1, filters % shape[-2], filters] += 1
    return _unit_filters(kernel)


def _edges(generator: np.random.Generator, shape: Shape) -> Array:
    """Draw kernels that sum to zero, similar for the three colours, as most edges are."""
    height, width, colours, filters = shape
    shared = generator.standard_normal((height, width, 1, filters), np.float32)
    kernel = shared + generator.standard_normal((height, width, colours, filters), np.float32) / 2
    centred: Array = kernel - kernel.mean((0, 1), keepdims=True)
    return centred


def _unit_filters(kernel: Array) -> Array:
    """Return a kernel whose filters have a Euclidean norm of 1."""
    unit: Array = kernel / np.sqrt((kernel**2).sum((0, 1, 2), keepdims=True))
    return unit


def _groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the groups that hold the convolutions, by the convolutions' names."""
    for parent in ("layers", "_layer_checkpoint_dependencies", "model_weights"):
        group = hdf5.member(file, parent)
        if isinstance(group, h5py.Group):
            return _by_convolution(group)
    return _by_convolution(file)


def _by_convolution(parent: h5py.Group) -> dict[str, h5py.Group]:
    groups = {name: child for name in parent if isinstance(child := hdf5.member(parent, name), h5py.Group)}
    numbered = [f"conv2d_{number}" if number else "conv2d" for number in range(len(ARCHITECTURE))]
    if all(name in groups for name in numbered):  # Keras 3 numbers layers of one class in the network's order
        return {name: groups[number] for name, number in zip(ARCHITECTURE, numbered, strict=True)}
    return groups


def _convolution(file: str, name: str, group: h5py.Group | None) -> Convolution:
    kernel, bias = ARCHITECTURE[name], ARCHITECTURE[name][-1:]
    datasets = [] if group is None else list(hdf5.datasets(group))
    by_shape = {dataset.shape: dataset for dataset in datasets}
    if len(datasets) != 2 or set(by_shape) != {kernel, bias}:
        received = " and ".join(map(str, by_shape)) or "nothing"
        received += f", {len(datasets)} arrays" if len(datasets) > 2 else ""
        raise DataError(
            f"{file} must hold VGG16's `{name}`: a kernel {kernel} and a bias {bias}. Received: {received}. "
            "Use weights of Keras's VGG16."
        )
    return Convolution(_array(file, name, by_shape[kernel]), _array(file, name, by_shape[bias]))


def _array(file: str, name: str, dataset: h5py.Dataset) -> Array:
    """Read a dataset, whose shape is known, as float32."""
    received = f"the type {dataset.dtype}" if dataset.dtype.kind != "f" else ""
    if hdf5.is_stored_elsewhere(dataset):
        received = "data stored in another file"
    if dataset.chunks and math.prod(dataset.chunks) > dataset.size:  # HDF5 unpacks a chunk as a whole
        received = f"a chunk of {dataset.chunks} numbers for an array of {dataset.shape}"
    if received:
        raise DataError(
            f"{file}: `{name}` must be floats stored in the file itself. Received: {received}. "
            "Use weights of Keras's VGG16."
        )
    with np.errstate(over="ignore"):  # becomes infinity, which is rejected below
        array: Array = dataset[()].astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: `{name}` must be finite numbers. Received: NaN or infinity. Fetch the file again.")
    return array
