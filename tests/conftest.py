"""Fixtures for all tests: the demo, run once for every test that needs a pipeline whose stages have all run."""

import contextlib
import gc
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from absl import logging as absl_logging
from hypothesis import settings
from ruamel.yaml import YAML

from flows import demo, sandbox
from tests import sharing
from transfer.runtime import files

pytest_plugins = ["tests.quick", "tests.reliability"]

gc.disable()  # until all tests are collected, as the imports of all packages leave nothing to collect

# `make test` tries few examples, always the same, `make check` fewer; `make fuzz` tries many, different ones each time
settings.register_profile("suite", max_examples=300, derandomize=True, deadline=None, database=None)
settings.register_profile("quick", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("long", max_examples=20_000, deadline=None, database=None, print_blob=True)
settings.load_profile("suite")

# TensorFlow's log handler closes the standard error of its import when logging is configured anew, as Prefect and GTO
# do when they are imported; in a test process it is pytest's
absl_logging.PythonHandler.close = logging.Handler.close

ROOT = Path(__file__).parent.parent

for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of `make test`; tests run make themselves
    os.environ.pop(variable, None)
SMALLER: dict[str, dict[str, Any]] = {
    "download": {"generated": {"photographs": 60, "size": 40}},
    "subsample": {"photographs": 50},
    "extract_features": {"image_size": 32},
    "train_head": {"training": {"epochs": 2}},
    "fine_tune": {"training": {"epochs": 1}},
}


def training_params(stage: str, **changes: Any) -> dict[str, Any]:
    """Return a stage's section `training` of params.yaml with changes; `patience` is that of early stopping."""
    section: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")[stage]["training"]
    patience = changes.pop("patience", None)
    if patience is not None:
        section["early_stopping"] |= {"patience": patience}
    return section | changes


class Reproduced(NamedTuple):
    """A project in which the demo has run; tests must not change it, as several processes share it."""

    project: Path
    workspace: Path
    before: dict[str, str]  # sha256 of the project's files before the demo
    output: str


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder, by its path, except those in `.cache/`."""
    paths = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not {".cache", "__pycache__"} & {*path.relative_to(folder).parts}
    )
    return {str(path.relative_to(folder)): files.sha256(path) for path in paths}


def copy_project(project: Path) -> None:
    """Copy the files that the demo needs into an empty project."""
    for name in (*sandbox.COPIED, ".dvc/config", "params.yaml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, project / name)


def copy_workspace(workspace: Path, target: Path) -> None:
    """Copy a workspace; outputs and caches are hard links, as stages and DVC replace these files instead of writing."""

    def copy(source: str, destination: str) -> None:
        linked = {"artifacts", "cache", ".cache"} & {*Path(source).relative_to(workspace).parts}
        (os.link if linked else shutil.copy2)(source, destination)

    shutil.copytree(workspace, target, copy_function=copy, ignore=shutil.ignore_patterns("tmp", "__pycache__"))
    (target / ".dvc/tmp").mkdir()


@contextlib.contextmanager
def small_demo() -> Iterator[None]:
    """Make the demo smaller for the block, for a user with another Python first on the PATH and another cache."""
    params = {name: {**section, **SMALLER.get(name, {})} for name, section in demo.PARAMS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PARAMS", params)
        patch.setenv("PATH", os.defpath)
        patch.setenv("DOGS_VS_CATS_CACHE", "/nowhere")
        yield


def dvc(workspace: Path, *arguments: str) -> str:
    """Run a DVC command, which must succeed, and return its output and that of the stages."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=workspace,
        env=sandbox.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin long files first, as the other processes would have nothing to do while the last one ends."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among the imported modules and the collected tests, which stay."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let processes that a test or fixture starts receive SIGINT, SIGTERM and SIGHUP, which this process may ignore.

    A test process of xdist, or one behind `&`, ignores SIGINT; one under `nohup` ignores SIGHUP; after a stage has run
    in this process, it ignores all of them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # child processes inherit SIG_IGN but not a handler


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    """Run the small demo in a copy of the project, once for all test processes."""
    folder = sharing.make_once(sharing.folder(tmp_path_factory) / "demo", _run_demo)
    project, record = folder / "a project", folder / "record.json"
    return Reproduced(project, project / demo.WORKSPACE, **json.loads(record.read_text()))


def _run_demo(folder: Path) -> None:
    project = folder / "a project"
    copy_project(project)
    before = digests(project)
    with small_demo(), contextlib.chdir(project), contextlib.redirect_stdout(io.StringIO()) as output:
        demo.main()
    files.write_json(folder / "record.json", {"before": before, "output": output.getvalue()})
