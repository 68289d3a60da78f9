"""A small workspace in which the stages that compute have run once, for tests to inspect and to copy."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import sharing
from tests.conftest import training_params
from transfer.images import manifest
from transfer.network import weights
from transfer.sources import synthetic

ROOT = Path(__file__).parents[2]
STAGES = ("extract_features", "train_head", "fine_tune")
EDGE = 40  # of the synthetic pictures, pixels
PARAMS: dict[str, Any] = {
    "extract_features": {
        "image_size": 32,
        "resizing": "crop",
        "frozen_through": "block4_pool",
        "views": 1,
        "augmentation": {
            "horizontal_flip": True,
            "vertical_flip": False,
            "rotation": 36.0,
            "shift": 0.0,
            "zoom": 1.2,
            "shear": 0.0,
            "stretch": 1.0,
            "fill": "reflect",
        },
        "mirror": False,
        "precision": "float32",
        "seed": 0,
    },
    "train_head": {
        "head": {
            "pooling": "average",
            "batch_normalization": True,
            "dense": [8],
            "activation": "relu",
            "dropout": 0.5,
            "l1": 0.0,
            "l2": 1e-4,
        },
        "heads": 1,
        "training": training_params("train_head", learning_rate=1e-3, batch_size=8, epochs=3, patience=3),
        "seed": 0,
    },
    "fine_tune": {
        "precision": "float32",
        "temperature": "auto",
        "answers": {"coverage": 0.99, "lost": 0.02},
        "training": training_params("fine_tune", learning_rate=1e-5, batch_size=8, epochs=3, patience=3),
        "seed": 0,
    },
}


class Chain(NamedTuple):
    """The workspace, and the standard error of each stage."""

    folder: Path
    stderr: dict[str, str]


def write_params(workspace: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Write params.yaml with some values changed; a hard link to the original is replaced, not written into."""
    sections = {stage: {**section, **changes.get(stage, {})} for stage, section in PARAMS.items()}
    (workspace / "params.yaml").unlink(missing_ok=True)
    (workspace / "params.yaml").write_text(json.dumps(sections), encoding="utf-8")


def write_photographs(workspace: Path, *, numbers: Sequence[int]) -> list[manifest.Entry]:
    """Write a synthetic picture of each class for each number, and the manifest of the stage `split`."""
    entries = [_draw(workspace, class_name, number) for number in numbers for class_name in ("cat", "dog")]
    manifest.write(workspace / "artifacts/split/manifest.csv", entries)
    return entries


def _draw(workspace: Path, class_name: str, number: int) -> manifest.Entry:
    """Write a synthetic picture, unless it is there; return its entry in the manifest."""
    data = synthetic.draw(class_name, number, size=EDGE, seed=0)
    path = f"photos/{class_name}/{number}.jpg"
    target = workspace / "artifacts/subsample" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.write_bytes(data)
    split = ("train", "train", "train", "validation", "test")[number % 5]
    return manifest.Entry(path, class_name, hashlib.sha256(data).hexdigest(), EDGE, EDGE, split)


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a stage: that of the tests, without a cache that the user may have set."""
    inherited = {name: value for name, value in os.environ.items() if name != "DOGS_VS_CATS_CACHE"}
    return {**inherited, "PYTHONPATH": str(ROOT), **changes}


def start(stage: str, workspace: Path, **changes: str) -> "subprocess.Popen[str]":
    """Start a stage as a process, as DVC does."""
    return subprocess.Popen(
        [sys.executable, "-m", "tasks", stage],
        cwd=workspace,
        env=environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: "subprocess.Popen[str]") -> str:
    """Wait for a stage, which must succeed; return its standard error."""
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    return stderr


def run(stage: str, workspace: Path, **changes: str) -> str:
    """Run a stage, which must succeed; return its standard error."""
    return wait(start(stage, workspace, **changes))


def kill_once(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    """Kill a process with SIGKILL as soon as `reached` returns true."""
    try:
        deadline = time.monotonic() + 240
        while not reached():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Make every process that opens the file wait forever, as on a disk that hangs."""
    original = path.with_name(f"{path.name}.original")
    path.rename(original)
    os.mkfifo(path)
    try:
        yield
    finally:
        original.replace(path)


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_workspace(chain: Chain, target: Path) -> Path:
    """Copy the workspace as hard links, which takes no time; stages replace files and never write into them."""
    shutil.copytree(chain.folder, target, copy_function=os.link)
    return target


def prepare_workspace(folder: Path, *, numbers: Sequence[int]) -> None:
    """Make a workspace with parameters, photographs of both classes for each number, and random weights."""
    write_photographs(folder, numbers=numbers)
    write_params(folder, {})
    (folder / "artifacts/fetch_weights").mkdir()
    weights.write(folder / "artifacts/fetch_weights/vgg16.weights.h5", weights.random(seed=0))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Return the workspace in which extract_features, train_head and fine_tune have run; not to be changed."""
    folder = sharing.make_once(sharing.folder(tmp_path_factory) / "chain", _run_chain)
    return Chain(folder / "with a space", json.loads((folder / "stderr.json").read_text()))


def _run_chain(folder: Path) -> None:
    workspace = folder / "with a space"
    prepare_workspace(workspace, numbers=range(20))
    stderr = {stage: run(stage, workspace) for stage in STAGES}
    (folder / "stderr.json").write_text(json.dumps(stderr))


@pytest.fixture
def workspace(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the workspace, which may be changed, as the current folder."""
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    folder = copy_workspace(chain, tmp_path / "with a space")
    monkeypatch.chdir(folder)
    return folder


def kill_in_the_third_epoch(stage: str, workspace: Path, train: Any) -> Path:
    """Start a training stage and kill it after two epochs; return the folder of the state that it saved.

    Args:
        stage: the stage's name.
        workspace: the workspace.
        train: the `FeatureDataset` of its training split; typed loosely, as importing its module starts TensorFlow,
            which not every test here needs.
    """

    def views(entry: manifest.Entry) -> list[int]:
        drawn = []
        for train.epoch in range(3):
            drawn.append(train._view(entry))
        return drawn

    photographs = manifest.read(workspace / "artifacts/split/manifest.csv")
    first_needed_in_epoch_3 = next(
        entry for entry in photographs if entry.split == "train" and views(entry) == [0, 0, 1]
    )
    states = workspace / ".cache/training"
    with hanging(workspace / "artifacts/extract_features/1" / f"{first_needed_in_epoch_3.sha256}.npz"):
        kill_once(start(stage, workspace), lambda: any(states.glob("*/*/epoch-0002")))
    return max(states.glob("*/*/epoch-*"))
