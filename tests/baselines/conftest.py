"""A workspace in which the main pipeline and baselines of tiny networks have run."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from baselines import __main__ as runner
from flows import sandbox
from tests.conftest import Reproduced, dvc
from transfer.network.backend import keras

ROOT = Path(__file__).parents[2]
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "mlp": {"hidden": [4]},
    **{model: {"filters": [4, 4], "dense": 8} for model in ("cnn", "cnn_augmented", "cnn_regularized")},
    **{model: {"filters": [4, 4], "pairs": 1} for model in ("plain", "residual")},
}
RUN_BY_DVC = ("baselines/dvc.yaml:train@residual", "baselines/dvc.yaml:measure_extraction")
TRAINED_IN_PROCESS = ("logistic_regression", "cnn_regularized")  # starting a process per model would be slower
COPIED_MODELS = {
    "mlp": "logistic_regression",
    "cnn": "cnn_regularized",
    "cnn_augmented": "cnn_regularized",
    "plain": "residual",
}


class Baselines(NamedTuple):
    """The workspace, the output of DVC, and what `dvc status` reported as changed after that."""

    folder: Path
    output: str
    changed: dict[str, Any]


def params() -> Any:
    """Return baselines/params.yaml with the smallest networks, images and training runs."""
    small = {"training": {"epochs": 2, "batch_size": 16}}
    yaml = YAML()
    return sandbox.merged(
        yaml.load(ROOT / "baselines/params.yaml"),
        {
            "train": {"image_size": 16},
            "measure_extraction": {"photographs": 9},
            **{model: {"network": network, **small} for model, network in NETWORKS.items()},
        },
    )


def link_tree(folder: Path, target: Path) -> Path:
    """Copy a folder as hard links, which takes no time; stages replace files and never write into them."""
    shutil.copytree(folder, target, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__", ".cache"))
    return target


def run(*arguments: str) -> None:
    """Run `python -m baselines ...` in this process and in the current folder."""
    keras.utils.clear_session()  # names of optimizers contain a counter
    runner.main(arguments)


@pytest.fixture(scope="session")
def baselines(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Baselines:
    """A copy of the reproduced pipeline with all baselines, each trained or a copy of another; tests leave it as is."""
    folder = link_tree(reproduced.workspace, tmp_path_factory.mktemp("baselines") / "with a space")
    shutil.copytree(ROOT / "baselines", folder / "baselines", ignore=shutil.ignore_patterns("dvc.lock", "__pycache__"))
    YAML().dump(params(), folder / "baselines/params.yaml")
    output = dvc(folder, "repro", *RUN_BY_DVC)
    with contextlib.chdir(folder):
        with Repo() as repo:
            changed = repo.status([*RUN_BY_DVC])
        for model in TRAINED_IN_PROCESS:
            run("train", model)
        models = Path("artifacts/baselines/train")
        for model, other in COPIED_MODELS.items():
            link_tree(models / other, models / model)
        run("compare")
    return Baselines(folder, output, changed)


@pytest.fixture
def workspace(baselines: Baselines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace that a test may change; it is the current folder."""
    folder = link_tree(baselines.folder, tmp_path / "with a space")
    monkeypatch.chdir(folder)
    return folder
