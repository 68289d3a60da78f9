import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from baselines import mnist
from tests.servers import Fault, StandIn, serve
from transfer.network.backend import keras


class Place(NamedTuple):
    """Where Keras looks for MNIST in a test: the path of its copy, and the server."""

    copy: Path
    server: StandIn


def archive(**changed: Any) -> bytes:
    """Return a file in MNIST's layout: 12 and 5 images of noise."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("test", 5)):
        arrays[f"x_{split}"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"y_{split}"] = (np.arange(count) % 10).astype(np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **(arrays | changed))
    return file.getvalue()


def expect(content: bytes, place: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Keras's loader expect a file with this content, in this folder or at this address."""
    loader = sys.modules["keras.src.datasets.mnist"]
    original = keras.utils.get_file
    changed = {"file_hash": hashlib.sha256(content).hexdigest(), "cache_dir": str(place), "origin": f"{address}/mnist"}
    monkeypatch.setattr(loader, "get_file", lambda **arguments: original(**(arguments | changed)))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A folder and a server in place of Keras's own, for the file that `archive` returns."""
    with serve(archive()) as server:
        expect(server.body, tmp_path, server.address, monkeypatch)
        (tmp_path / "datasets").mkdir()
        yield Place(tmp_path / "datasets/mnist.npz", server)


def test_a_copy_is_read_without_a_connection(place: Place) -> None:
    """A copy in Keras's folder is enough: images are bytes, labels numbers, and nothing is requested."""
    place.copy.write_bytes(archive())
    train, test = mnist.load()
    assert (train.images.shape, train.images.dtype, test.images.shape) == ((12, 28, 28), np.uint8, (5, 28, 28))
    assert test.labels.tolist() == [0, 1, 2, 3, 4]
    assert place.server.requests == []


def test_without_a_copy_it_is_downloaded(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """Keras downloads the file, quietly, and keeps it for the next time."""
    assert len(mnist.load()[0].labels) == 12
    assert place.copy.read_bytes() == archive()
    assert capfd.readouterr().out == ""


@pytest.mark.reliability(
    "tampered", "MNIST's file with another SHA-256 than in Keras's source", "downloaded anew, or refused unopened"
)
def test_another_file_is_never_read(place: Place) -> None:
    """A copy with another SHA-256 is downloaded anew; a download with another SHA-256 is refused."""
    place.copy.write_bytes(archive(y_test=np.zeros(5, np.uint8)))
    assert mnist.load()[1].labels.tolist() == [0, 1, 2, 3, 4]
    place.copy.unlink()
    place.server.body = archive(y_test=np.zeros(5, np.uint8))
    with pytest.raises(mnist.UnavailableError, match="hash does not match"):
        mnist.load()


@pytest.mark.reliability(
    "network", "MNIST not to be had: 404, cut or stalled", "the baselines leave it out and say why"
)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault(status=404), "404"), (Fault(cut_after=100), "bytes"), (Fault(stall_after=1), "timed out")],
)
def test_a_failed_download_says_why(place: Place, fault: Fault, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a cut and a stalled connection end with one line; no part of a file is left behind."""
    monkeypatch.setattr(mnist, "_TIMEOUT", 0.5)
    place.server.faults.append(fault)
    with pytest.raises(mnist.UnavailableError, match=reason) as error:
        mnist.load()
    assert str(error.value).isprintable()
    assert not place.copy.exists()


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "changed",
    [
        {"x_train": np.zeros((12, 28, 28, 3), np.uint8)},
        {"x_test": np.zeros((5, 28, 28))},
        {"x_test": np.zeros((6, 28, 28), np.uint8)},
        {"y_train": np.full(12, 10, np.uint8)},
        {"y_test": np.zeros(5, np.int32)},
        {"y_train": np.uint8(0)},
        {"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0, np.uint8)},
        {"y_test": np.array([None] * 5)},
    ],
    ids=["colours", "floats", "more images", "label", "integers", "no list", "empty", "objects"],
)
def test_other_arrays_than_mnist_s_are_refused(
    place: Place, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with the expected SHA-256, arrays of other types or shapes are not used."""
    place.copy.write_bytes(archive(**changed))
    expect(place.copy.read_bytes(), place.copy.parents[1], place.server.address, monkeypatch)
    with pytest.raises(mnist.UnavailableError):
        mnist.load()


@pytest.mark.reliability("tampered", "pickled objects in MNIST's file", "not unpickled; MNIST is left out")
def test_no_object_is_unpickled(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled object in the file, which could run code, is refused unopened."""
    place.copy.write_bytes(archive(x_test=np.array([Trap(tmp_path / "sprung")], object)))
    expect(place.copy.read_bytes(), tmp_path, place.server.address, monkeypatch)
    with pytest.raises(mnist.UnavailableError, match="allow_pickle"):
        mnist.load()
    assert not (tmp_path / "sprung").exists()
