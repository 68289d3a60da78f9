"""The demo, run once for all tests that need a pipeline in which every stage has run."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from ruamel.yaml import YAML

from flows import demo

pytest_plugins = ["tests.reliability"]

# the suite tries few examples, always the same; `make fuzz` tries many, others each time
settings.register_profile("suite", max_examples=300, derandomize=True, deadline=None, database=None)
settings.register_profile("long", max_examples=20_000, deadline=None, database=None, print_blob=True)
settings.load_profile("suite")

ROOT = Path(__file__).parent.parent
SMALLER: dict[str, dict[str, Any]] = {
    "download": {"generated": {"photographs": 60, "size": 40}},
    "subsample": {"photographs": 50},
    "extract_features": {"image_size": 32},
    "train_head": {"training": {"epochs": 2}},
    "fine_tune": {"training": {"epochs": 1}},
}


def training_params(stage: str, **changes: Any) -> dict[str, Any]:
    """How params.yaml has a stage train, with some values changed; `patience` is early stopping's."""
    section: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")[stage]["training"]
    patience = changes.pop("patience", None)
    if patience is not None:
        section["early_stopping"] |= {"patience": patience}
    return section | changes


class Reproduced(NamedTuple):
    """A project in which the demo has run."""

    project: Path
    workspace: Path
    before: dict[str, bytes]  # the project's files before the demo
    said: str


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a project but what lies in `.cache/`, by its place."""
    paths = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not {".cache", "__pycache__"} & {*path.relative_to(folder).parts}
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def small_demo() -> Iterator[None]:
    """The demo with fewer and smaller pictures, for a user with another Python in front and a cache of their own."""
    params = {name: {**section, **SMALLER.get(name, {})} for name, section in demo.PARAMS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PARAMS", params)
        patch.setenv("PATH", os.defpath)
        patch.setenv("DOGS_VS_CATS_CACHE", "/nowhere")
        yield


def dvc(workspace: Path, *arguments: str) -> str:
    """Run DVC, which must succeed; what it and the stages said."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace,
        env=demo.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Have processes that tests start take all that asks to end, which they ignore if these here do.

    One of many testing processes, or one behind `&`, ignores Ctrl-C; one under `nohup` a terminal that is closed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # as deaf as before, but a handler is not handed down


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """The small demo, run in a copy of the project; its workspace is left as it is, or put back."""
    project = tmp_path_factory.mktemp("pipeline") / "a project"
    for name in (*demo.COPIED, ".dvc/config", "params.yaml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, project / name)
    before = contents(project)
    with small_demo(), contextlib.chdir(project), contextlib.redirect_stdout(io.StringIO()) as said:
        demo.main()
    return Reproduced(project, project / demo.WORKSPACE, before, said.getvalue())
