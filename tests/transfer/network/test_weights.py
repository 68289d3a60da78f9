import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from transfer.features import extraction
from transfer.network import heads, weights
from transfer.network.weights import ARCHITECTURE, Weights
from transfer.runtime import files
from transfer.runtime.errors import DataError
from transfer.sources import synthetic


@pytest.fixture(name="drawn", scope="module")
def _drawn() -> Weights:
    return weights.random(0)


@pytest.fixture(name="file")
def _file(drawn: Weights, tmp_path: Path) -> Path:
    weights.write(tmp_path / "weights.h5", drawn)
    return tmp_path / "weights.h5"


def _same(first: Weights, second: Weights) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[name].kernel, second[name].kernel) and np.array_equal(first[name].bias, second[name].bias)
        for name in first
    )


def _write_project_s(file: h5py.File, drawn: Weights) -> None:
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


@pytest.mark.parametrize(
    "write", [_write_project_s, _write_legacy, _write_nested_legacy, _write_numbered, _write_named]
)
def test_every_layout_is_read(write: Callable[[h5py.File, Weights], None], drawn: Weights, tmp_path: Path) -> None:
    """The project's layout, Keras's legacy layouts and those of Keras 3 give the same weights by layer name."""
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        write(file, drawn)
    assert _same(weights.read(tmp_path / "weights.h5"), drawn)


def test_the_same_weights_are_the_same_bytes(drawn: Weights, file: Path, tmp_path: Path) -> None:
    """Weights that are read and written again give the same file, byte by byte."""
    weights.write(tmp_path / "again.h5", weights.read(file))
    assert files.sha256(tmp_path / "again.h5") == files.sha256(file)
    assert _same(weights.read(file), drawn)


def test_random_weights_are_float32_without_bias(drawn: Weights) -> None:
    """Random kernels are float32 and biases zero; another seed gives other kernels."""
    assert {part.dtype for convolution in drawn.values() for part in convolution} == {np.dtype(np.float32)}
    assert not any(convolution.bias.any() for convolution in drawn.values())
    for name, convolution in weights.random(1).items():
        assert not np.array_equal(convolution.kernel, drawn[name].kernel)


def test_the_first_random_convolution_detects_edges(drawn: Weights) -> None:
    """Its kernels sum to zero at each colour, so that it sees nothing of a plain surface."""
    kernel = drawn["block1_conv1"].kernel
    np.testing.assert_allclose(kernel.sum((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose((kernel**2).sum((0, 1, 2)), 1 / 64**2, rtol=1e-4)


def test_the_other_random_convolutions_pass_channels_on(drawn: Weights) -> None:
    """Each filter has length 1, and its largest weight is at the centre of the channel of its own number."""
    for name, (kernel, _) in list(drawn.items())[1:]:
        filters = np.arange(kernel.shape[-1])
        np.testing.assert_allclose((kernel**2).sum((0, 1, 2)), 1, rtol=1e-4, err_msg=name)
        assert (kernel[1, 1, filters % kernel.shape[2], filters] > 0.8).all(), name


def test_random_weights_tell_drawings_apart(drawn: Weights) -> None:
    """From 120 drawings a linear model learns to tell cats from dogs by the features, and cannot by the colours."""
    compute = extraction.build_network(drawn, image_size=48, boundary="block4_pool")
    pixels = np.stack([_drawing(number) for number in range(240)])
    rows = [
        row for start in range(0, 240, extraction.BATCH) for row in compute(pixels[start : start + extraction.BATCH])
    ]
    features = np.stack([heads.pool(row.pooled, "max") for row in rows])
    assert 0.3 < features.std() < 3
    assert _accuracy(features) >= 0.85
    assert _accuracy(np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)) <= 0.65


def _drawing(number: int) -> np.ndarray:
    picture = synthetic.draw(("cat", "dog")[number % 2], number // 2, size=48, seed=0)
    return np.asarray(Image.open(io.BytesIO(picture)))


def _accuracy(features: np.ndarray) -> float:
    """Fit ridge regression to the first half of the drawings, and return its accuracy on the other half."""
    half = len(features) // 2
    labels = np.resize([-1.0, 1.0], len(features))
    scaled = (features - features[:half].mean(0)) / features[:half].std(0).clip(1e-6)
    similarity = scaled @ scaled[:half].T / scaled.shape[1]
    weight = np.linalg.solve(similarity[:half] + 0.1 * np.eye(half), labels[:half])
    return float(np.mean((similarity[half:] @ weight > 0) == (labels[half:] > 0)))


def test_the_architecture_is_vgg16_s() -> None:
    """VGG16's base has thirteen convolutions with 14,714,688 weights."""
    assert len(ARCHITECTURE) == 13
    assert sum(int(np.prod(shape)) + shape[-1] for shape in ARCHITECTURE.values()) == 14_714_688


def _remove_convolution(file: h5py.File) -> None:
    del file["block3_conv2"]


def _narrow(file: h5py.File) -> None:
    del file["block1_conv1/kernel"]
    file["block1_conv1/kernel"] = np.zeros((3, 3, 1, 64), np.float32)


def _store_integers(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    file["block1_conv1/bias"] = np.zeros(64, np.int64)


def _set_nan(file: h5py.File) -> None:
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


def _enlarge_chunk(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    chunks = {"chunks": (1 << 28,), "maxshape": (None,), "compression": "gzip"}
    file["block1_conv1"].create_dataset("bias", (64,), "<f4", **chunks)


def _nest_in_itself(file: h5py.File) -> None:
    del file["block1_conv1/bias"]
    for number in range(100):
        file[f"block1_conv1/{number}"] = file["block1_conv1"]


SHAPES = pytest.mark.reliability("tampered", "a file of weights with other shapes than VGG16's", "65 with both shapes")
ELSEWHERE = pytest.mark.reliability(
    "tampered", "a file of weights with numbers in another file", "65; the other file is not read"
)

BOMB = pytest.mark.reliability(
    "tampered", "a file of weights that would take gigabytes or days to read", "65 before it is read"
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_remove_convolution, r"block3_conv2.*Received: nothing", marks=SHAPES),
        pytest.param(_narrow, r"\(3, 3, 3, 64\).*Received.*\(3, 3, 1, 64\)", marks=SHAPES),
        (_store_integers, "the type int64"),
        (_set_nan, "NaN"),
        (_overflow, "infinity"),
        (_link_softly, "Received: nothing"),
        pytest.param(_link_outside, "Received: nothing", marks=ELSEWHERE),
        pytest.param(_store_outside, "another file", marks=ELSEWHERE),
        pytest.param(_map_from_outside, "another file", marks=ELSEWHERE),
        (_store_objects, "the type object"),
        (_repeat, "3 arrays"),
        pytest.param(_enlarge_chunk, r"a chunk of \(268435456,\)", marks=BOMB),
        pytest.param(_nest_in_itself, r"Received: \(3, 3, 3, 64\)\.", marks=BOMB),
    ],
)
def test_other_weights_are_rejected(change: Callable[[h5py.File], None], message: str, file: Path) -> None:
    """Weights that are missing, of another shape, not finite floats or not in the file are rejected with a reason."""
    with h5py.File(file, "r+") as content:
        change(content)
    with pytest.raises(DataError, match=message):
        weights.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error for a missing file has its name, which h5py's has not."""
    with pytest.raises(FileNotFoundError) as missing:
        weights.read(tmp_path / "gone.h5")
    assert missing.value.filename == str(tmp_path / "gone.h5")


@pytest.mark.reliability("tampered", "a damaged file of weights", "65 with its size and what to do")
@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_a_truncated_file_is_rejected(kept: int, file: Path) -> None:
    """A truncated file, or one that is not HDF5, is rejected with its size."""
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"{kept:,} bytes"):
        weights.read(file)
