from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from transfer.network import weights
from transfer.network.weights import ARCHITECTURE, Weights
from transfer.runtime import files
from transfer.runtime.errors import DataError


@pytest.fixture(name="drawn", scope="module")
def _drawn() -> Weights:
    return weights.random(0)


@pytest.fixture(name="ours")
def _ours(drawn: Weights, tmp_path: Path) -> Path:
    weights.write(tmp_path / "ours.h5", drawn)
    return tmp_path / "ours.h5"


def _same(first: Weights, second: Weights) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[name].kernel, second[name].kernel) and np.array_equal(first[name].bias, second[name].bias)
        for name in first
    )


def _write_ours(file: h5py.File, drawn: Weights) -> None:
    for name, (kernel, bias) in drawn.items():
        file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias


def _write_legacy(file: h5py.File, drawn: Weights) -> None:
    for name, (kernel, bias) in drawn.items():
        file[f"{name}/{name}_W_1:0"], file[f"{name}/{name}_b_1:0"] = kernel, bias
        file[name].attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
    file.create_group("block1_pool")


def _write_nested_legacy(file: h5py.File, drawn: Weights) -> None:
    for name, (kernel, bias) in drawn.items():
        file[f"model_weights/{name}/vgg16/{name}/kernel"] = kernel
        file[f"model_weights/{name}/vgg16/{name}/bias"] = bias


def _write_numbered(file: h5py.File, drawn: Weights) -> None:
    for number, (kernel, bias) in enumerate(drawn.values()):
        group = f"layers/conv2d_{number}" if number else "layers/conv2d"
        file[f"{group}/vars/0"], file[f"{group}/vars/1"] = kernel, bias
    file.create_group("layers/max_pooling2d/vars")


def _write_named(file: h5py.File, drawn: Weights) -> None:
    for name, (kernel, bias) in drawn.items():
        file[f"layers/{name}/vars/0"], file[f"layers/{name}/vars/1"] = kernel, bias


@pytest.mark.parametrize("write", [_write_ours, _write_legacy, _write_nested_legacy, _write_numbered, _write_named])
def test_every_layout_is_read(write: Callable[[h5py.File, Weights], None], drawn: Weights, tmp_path: Path) -> None:
    """Ours, Keras's legacy files and Keras 3's give the same weights, each layer under its own name."""
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        write(file, drawn)
    assert _same(weights.read(tmp_path / "weights.h5"), drawn)


def test_written_bytes_follow_from_the_weights(drawn: Weights, ours: Path, tmp_path: Path) -> None:
    """Reading and writing again gives the same file, byte for byte."""
    weights.write(tmp_path / "again.h5", weights.read(ours))
    assert files.sha256(tmp_path / "again.h5") == files.sha256(ours)
    assert _same(weights.read(ours), drawn)


def test_random_weights_keep_the_signal(drawn: Weights) -> None:
    """Random kernels have He's deviation, biases are zero, and another seed gives others."""
    kernel, bias = drawn["block5_conv3"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    assert kernel.dtype == np.float32
    assert not bias.any()
    assert not np.array_equal(weights.random(1)["block1_conv1"].kernel, drawn["block1_conv1"].kernel)


def test_architecture_is_vgg16s() -> None:
    """There are VGG16's thirteen convolutions with their 14,714,688 numbers."""
    assert len(ARCHITECTURE) == 13
    assert sum(int(np.prod(shape)) + shape[-1] for shape in ARCHITECTURE.values()) == 14_714_688


def _drop(file: h5py.File) -> None:
    del file["block3_conv2"]


def _narrow(file: h5py.File) -> None:
    del file["block1_conv1/kernel"]
    file["block1_conv1/kernel"] = np.zeros((3, 3, 1, 64), np.float32)


def _count(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    file["block1_conv1/bias"] = np.zeros(64, np.int64)


def _poison(file: h5py.File) -> None:
    file["block2_conv1/bias"][3] = np.nan


def _overflow(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    file["block1_conv1/bias"] = np.full(64, 1e300)


def _link_softly(file: h5py.File) -> None:
    del file["block1_conv1"]
    file["block1_conv1"] = h5py.SoftLink("/block1_conv2")


def _link_outside(file: h5py.File) -> None:
    del file["block1_conv1"]
    file["block1_conv1"] = h5py.ExternalLink("other.h5", "/block1_conv1")


def _store_outside(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    file["block1_conv1"].create_dataset("bias", (64,), "<f4", external=[("/etc/passwd", 0, 256)])


def _map_from_outside(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    layout = h5py.VirtualLayout((64,), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "bias", (64,))
    file["block1_conv1"].create_virtual_dataset("bias", layout)


def _store_objects(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    file["block1_conv1"].create_dataset("bias", (64,), h5py.string_dtype())


def _repeat(file: h5py.File) -> None:
    file["block1_conv1/again"] = file["block1_conv1/bias"]


def _swell(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    pieces = {"chunks": (1 << 28,), "maxshape": (None,), "compression": "gzip"}
    file["block1_conv1"].create_dataset("bias", (64,), "<f4", **pieces)


def _entangle(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    for number in range(100):
        file[f"block1_conv1/{number}"] = file["block1_conv1"]


SHAPES = pytest.mark.reliability("tampered", "a file of weights with other shapes than VGG16's", "65 with both shapes")
ELSEWHERE = pytest.mark.reliability(
    "tampered", "a file of weights whose numbers lie in another file", "65; the other file is not read"
)

BOMB = pytest.mark.reliability(
    "tampered", "a file of weights that takes gigabytes or days to read", "65 before it is read"
)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(_drop, r"block3_conv2.*Received: nothing", marks=SHAPES),
        pytest.param(_narrow, r"\(3, 3, 3, 64\).*Received.*\(3, 3, 1, 64\)", marks=SHAPES),
        (_count, "the type int64"),
        (_poison, "NaN"),
        (_overflow, "infinity"),
        (_link_softly, "Received: nothing"),
        pytest.param(_link_outside, "Received: nothing", marks=ELSEWHERE),
        pytest.param(_store_outside, "another file", marks=ELSEWHERE),
        pytest.param(_map_from_outside, "another file", marks=ELSEWHERE),
        (_store_objects, "the type object"),
        (_repeat, "3 arrays"),
        pytest.param(_swell, r"a piece of \(268435456,\)", marks=BOMB),
        pytest.param(_entangle, r"Received: \(3, 3, 3, 64\)\.", marks=BOMB),
    ],
)
def test_spoilt_weights_are_refused(spoil: Callable[[h5py.File], None], message: str, ours: Path) -> None:
    """Weights that are missing, misshapen, no finite floats or not in the file are refused, saying what was found."""
    with h5py.File(ours, "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=message):
        weights.read(ours)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is named in the error, as it is for any other file."""
    with pytest.raises(FileNotFoundError) as missing:
        weights.read(tmp_path / "gone.h5")
    assert missing.value.filename == str(tmp_path / "gone.h5")


@pytest.mark.reliability("tampered", "a damaged file of weights", "65 with its size and the cure")
@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_cut_file_is_refused(kept: int, ours: Path) -> None:
    """A file cut short, or of something else, is refused with its size."""
    ours.write_bytes(ours.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{kept:,} bytes"):
        weights.read(ours)
