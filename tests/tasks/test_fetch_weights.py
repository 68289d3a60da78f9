import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import h5py
import numpy as np
import pytest

from tasks import __main__ as runner
from tasks import fetch_weights
from tests import disks
from tests.servers import Fault, StandIn, serve
from transfer.network import weights
from transfer.runtime.errors import ChangedError, DataError
from transfer.runtime.files import sha256
from transfer.sources.http import Checksum

ROOT = Path(__file__).parents[2]
Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Run:
    def run(source: str, seed: str = "0", on: disks.Disk | None = None) -> "CompletedProcess[str]":
        params = f"fetch_weights:\n  source: {source}\n  seed: {seed}\n"
        (on.path if on else tmp_path).joinpath("params.yaml").write_text(params, encoding="utf-8")
        return subprocess.run(
            [*(on.entering if on else []), sys.executable, "-m", "tasks", "fetch_weights"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(name="legacy", scope="module")
def _legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in the layout of the file that Keras downloads."""
    path = tmp_path_factory.mktemp("legacy") / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in weights.random(5).items():
            file[f"{name}/{name}_W_1:0"], file[f"{name}/{name}_b_1:0"] = kernel, bias
    return path


@pytest.fixture(name="server")
def _server(legacy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(legacy.read_bytes()) as server:
        yield server


def _output(folder: Path) -> Path:
    return folder / "artifacts" / "fetch_weights" / "vgg16.weights.h5"


def _description(folder: Path) -> dict[str, str]:
    description: dict[str, str] = json.loads((folder / "artifacts" / "fetch_weights" / "weights.json").read_bytes())
    return description


def test_random(run: Run, tmp_path: Path) -> None:
    """Random weights have the same bytes for the same seed, and other bytes for another seed."""
    assert run("random").returncode == 0
    first = sha256(_output(tmp_path))
    assert _description(tmp_path) == {"source": "random", "from": "seed 0", "sha256": first}
    assert run("random").returncode == 0
    assert sha256(_output(tmp_path)) == first
    assert run("random", seed="1").returncode == 0
    assert sha256(_output(tmp_path)) != first


@pytest.mark.reliability("disk", "too little space for the weights", "exit 74 with the size; no partial file is left")
def test_too_little_space(run: Run, tmp_path: Path) -> None:
    """The free space is checked before HDF5 writes, as HDF5 ends with a segmentation fault on a full disk."""
    with disks.small(tmp_path / "disk", "size=1m") as disk:
        done = run("random", on=disk)
        assert done.returncode == 74, done.stderr
        assert done.stderr.startswith("The disk of `artifacts/fetch_weights` must have 58.9 MB free. Received: 1.0")
        assert done.stderr.count("\n") == 1
        assert list(disk.path.glob("artifacts/fetch_weights/*")) == []
        disk.mount("remount,size=70m")
        assert run("random", on=disk).returncode == 0


def test_inbox(run: Run, tmp_path: Path, legacy: Path) -> None:
    """Weights that a user saved with Keras are copied without a change of any number."""
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "mine.h5").write_bytes(legacy.read_bytes())
    assert run("inbox").returncode == 0
    assert _description(tmp_path)["from"] == "inbox/mine.h5"
    expected = weights.random(5)["block4_conv2"].kernel
    assert np.array_equal(weights.read(_output(tmp_path))["block4_conv2"].kernel, expected)


@pytest.mark.reliability(
    "tampered",
    "a file of the inbox, a parameter, code or an output of an earlier stage changes while a stage runs",
    "exit 75; the change is named, no output is left, and the next run uses the new one",
)
@pytest.mark.parametrize("is_read", [True, False], ids=["after it is read", "before"])
def test_weights_that_are_replaced_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: Path, *, is_read: bool
) -> None:
    """Neither the old nor the new weights become the output under the other's name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    Path("params.yaml").write_text("fetch_weights:\n  source: inbox\n  seed: 0\n", encoding="utf-8")
    Path("inbox").mkdir()
    shutil.copy(legacy, "inbox/mine.h5")
    read = weights.read

    def read_and_replace(path: Path) -> weights.Weights:
        found = read(path) if is_read else None
        weights.write(Path("new.h5"), weights.random(6))
        Path("new.h5").replace(path)
        return found or read(path)

    monkeypatch.setattr(weights, "read", read_and_replace)
    with pytest.raises(ChangedError, match=r"`inbox/mine\.h5`"):
        runner.run("fetch_weights")
    assert list(Path("artifacts/fetch_weights").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["`inbox/`", "no `.h5` file"]),
        (["a.h5", "b.weights.h5"], ["`inbox/a.h5`", "`inbox/b.weights.h5`"]),
        (["a.h5"], ["a.h5 must be an HDF5 file", "4 bytes"]),
    ],
)
def test_unusable_inbox(run: Run, tmp_path: Path, files: list[str], words: list[str]) -> None:
    """No file, several files, or a file without weights end the stage with 65, and no output is written."""
    (tmp_path / "inbox").mkdir()
    for name in files:
        (tmp_path / "inbox" / name).write_bytes(b"what")
    done = run("inbox")
    assert done.returncode == 65
    assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
    assert not _output(tmp_path).exists()


@pytest.mark.reliability(
    "photographs", "a pipe, a device or a link to one in the inbox", "exit 65 within seconds; the message has its name"
)
def test_pipe_in_the_inbox(run: Run, tmp_path: Path) -> None:
    """A pipe named as weights is not opened: that would wait for ever."""
    (tmp_path / "inbox").mkdir()
    os.mkfifo(tmp_path / "inbox" / "a.h5")
    done = run("inbox")
    assert done.returncode == 65
    assert "`inbox/a.h5`, a pipe" in done.stderr.splitlines()[-1]


@pytest.mark.reliability("network", "the connection is cut", "the missing bytes are requested, if the file is the same")
def test_imagenet(server: StandIn, legacy: Path, tmp_path: Path) -> None:
    """A cut download of Keras's file is resumed, its checksum is compared, and a second call sends no request."""
    server.faults = [Fault(cut_after=40_000_000)]
    checksum = Checksum("md5", hashlib.md5(legacy.read_bytes(), usedforsecurity=False).hexdigest())
    for _ in range(2):
        origin = fetch_weights.from_imagenet(tmp_path, address=server.address, checksum=checksum, size=len(server.body))
        assert np.array_equal(origin.weights["block5_conv3"].kernel, weights.random(5)["block5_conv3"].kernel)
    assert ["Range" in request.headers for request in server.gets] == [False, True]


@pytest.mark.parametrize(
    "change", [lambda content: content[:-1000], lambda content: b"!" + content[1:]], ids=["truncated", "changed"]
)
@pytest.mark.reliability(
    "network",
    "ImageNet weights are truncated or changed on the disk",
    "the checksum differs; the file is downloaded again",
)
def test_imagenet_changed_on_the_disk(server: StandIn, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """Weights that are damaged after the download are downloaded again."""
    content = server.body
    checksum = Checksum("md5", hashlib.md5(content, usedforsecurity=False).hexdigest())
    (tmp_path / "imagenet.h5").write_bytes(change(content))
    origin = fetch_weights.from_imagenet(tmp_path, address=server.address, checksum=checksum, size=len(content))
    assert origin.weights.keys() == weights.random(0).keys()
    assert (tmp_path / "imagenet.h5").read_bytes() == content


@pytest.mark.reliability(
    "network",
    "another file at the URL of the ImageNet weights",
    "exit 65; nothing is kept, so that the next run starts anew",
)
def test_another_file_at_imagenets_url(server: StandIn, tmp_path: Path) -> None:
    """Only the file with the known checksum is accepted; a file of another size is refused before its download."""
    with pytest.raises(DataError, match=fetch_weights.IMAGENET_MD5.digest):
        fetch_weights.from_imagenet(tmp_path, address=server.address, size=len(server.body))
    with pytest.raises(DataError, match="must be a file of 58,889,256 bytes"):
        fetch_weights.from_imagenet(tmp_path, address=server.address)
    assert not (tmp_path / "imagenet.h5").exists()
    assert (tmp_path / "imagenet.h5.part").stat().st_size == 0


def test_imagenets_url_is_that_of_keras() -> None:
    """The URL and the checksum are those of the installed Keras."""
    keras = importlib.util.find_spec("keras")
    assert keras is not None
    assert keras.origin is not None
    source = (Path(keras.origin).parent / "src" / "applications" / "vgg16.py").read_text(encoding="utf-8")
    joined = source.replace('"\n    "', "")
    assert f'"{fetch_weights.IMAGENET}"' in joined
    assert f'"{fetch_weights.IMAGENET_MD5.digest}"' in joined


@pytest.mark.parametrize(("source", "seed", "name"), [("caffe", "0", "source"), ("random", "-1", "seed")])
def test_wrong_params(run: Run, source: str, seed: str, name: str) -> None:
    """A wrong parameter ends the stage with 78, and the message has its name."""
    done = run(source, seed)
    assert done.returncode == 78
    assert f"`fetch_weights.{name}`" in done.stderr


def test_import_is_light() -> None:
    """Importing the stage imports neither TensorFlow nor Keras."""
    code = "import sys, tasks.fetch_weights; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
