"""A ladder of tiny networks beside a main pipeline that has run, for tests to look at and to copy."""

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows import demo
from ladder import compare, train
from tests.conftest import Reproduced, dvc
from transfer.network.backend import keras
from transfer.runtime import stage

ROOT = Path(__file__).parents[2]
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "mlp": {"hidden": [4]},
    **{rung: {"filters": [4, 4], "dense": 8} for rung in ("cnn", "cnn_augmented", "cnn_regularized")},
    **{rung: {"filters": [4, 4], "pairs": 1} for rung in ("plain", "residual")},
}
BY_DVC = ("train@residual", "measure_extraction")
TRAINED_HERE = ("logistic_regression", "cnn_regularized")  # in this process, which is faster
STAND_INS = {
    "mlp": "logistic_regression",
    "cnn": "cnn_regularized",
    "cnn_augmented": "cnn_regularized",
    "plain": "residual",
}


class Ladder(NamedTuple):
    """The ladder's folder, in which a rung of each kind has run, what DVC said, and what it found due after that."""

    folder: Path
    said: str
    due: dict[str, Any]


def params() -> Any:
    """The ladder's params, for networks and pictures of the smallest."""
    small = {"training": {"epochs": 2, "batch_size": 16}}
    yaml = YAML()
    return demo.merged(
        yaml.load(ROOT / "ladder/params.yaml"),
        {
            "train": {"image_size": 16},
            "measure_extraction": {"photographs": 9},
            **{rung: {"network": network, **small} for rung, network in NETWORKS.items()},
        },
    )


def copied(folder: Path, target: Path) -> Path:
    """A copy that takes no time: hard links, which the stages replace and never write into."""
    shutil.copytree(folder, target, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__", ".cache"))
    return target


def run(*command: str) -> None:
    """Run a stage in this process and in the current folder, as `python -m ...` does in one of its own."""
    keras.utils.clear_session()  # or optimizers would be numbered on
    module = {"train": train, "compare": compare}[command[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(command))
        stage.run(module.main)


@pytest.fixture(scope="session")
def ladder(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A copy of the reproduced pipeline with the ladder in it, all rungs there or stood in for; not to be changed."""
    beside = copied(reproduced.workspace, tmp_path_factory.mktemp("ladder") / "with a space")
    folder = beside / "ladder"
    made = shutil.ignore_patterns("artifacts", ".cache", "cache", "tmp", "dvc.lock", "__pycache__")
    shutil.copytree(ROOT / "ladder", folder, ignore=made)
    config = folder / ".dvc/config"
    config.write_text(config.read_text().replace("[core]", "[core]\n    no_scm = true"))
    YAML().dump(params(), folder / "params.yaml")
    said = dvc(folder, "repro", *BY_DVC)
    with contextlib.chdir(folder):
        with Repo() as repo:
            due = repo.status([*BY_DVC])
        for rung in TRAINED_HERE:
            run("train", rung)
        for rung, other in STAND_INS.items():
            copied(Path("artifacts/train", other), Path("artifacts/train", rung))
        run("compare")
    return Ladder(folder, said, due)


@pytest.fixture
def climbed(ladder: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ladder's folder and what lies beside it, to change; the current folder."""
    folder = copied(ladder.folder.parent, tmp_path / "with a space") / "ladder"
    monkeypatch.chdir(folder)
    return folder
