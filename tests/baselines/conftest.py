"""A workspace in which the main pipeline and baselines of tiny networks have run."""

import contextlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from baselines import __main__ as runner
from flows import sandbox
from tests import sharing
from tests.conftest import Reproduced, copy_workspace, dvc
from transfer.network.backend import keras
from transfer.runtime import files

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
    """A workspace in which all baselines have run, or are copies of others; tests must not change it.

    `output` is that of DVC, `changed` what `dvc status` reported after it.
    """

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


def run(*arguments: str) -> None:
    """Run `python -m baselines ...` in this process and in the current folder."""
    keras.utils.clear_session()  # names of optimizers contain a counter
    runner.main(arguments)


@pytest.fixture(scope="session")
def baselines(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Baselines:
    """Run the baselines in a copy of the reproduced pipeline, once for all test processes."""
    folder = sharing.folder(tmp_path_factory) / "baselines"
    sharing.make_once(folder, partial(_run_baselines, reproduced.workspace))
    return Baselines(folder / "with a space", **json.loads((folder / "record.json").read_text()))


def _run_baselines(pipeline: Path, folder: Path) -> None:
    workspace = folder / "with a space"
    copy_workspace(pipeline, workspace)
    ignored = shutil.ignore_patterns("dvc.lock", "__pycache__")
    shutil.copytree(ROOT / "baselines", workspace / "baselines", ignore=ignored)
    YAML().dump(params(), workspace / "baselines/params.yaml")
    output = dvc(workspace, "repro", *RUN_BY_DVC)
    with contextlib.chdir(workspace):
        with Repo() as repo:
            changed = repo.status([*RUN_BY_DVC])
        for model in TRAINED_IN_PROCESS:
            run("train", model)
        models = Path("artifacts/baselines/train")
        for model, other in COPIED_MODELS.items():
            shutil.copytree(models / other, models / model)
        run("compare")
    files.write_json(folder / "record.json", {"output": output, "changed": changed})


@pytest.fixture
def workspace(baselines: Baselines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace that a test may change; it is the current folder."""
    folder = tmp_path / "with a space"
    copy_workspace(baselines.folder, folder)
    monkeypatch.chdir(folder)
    return folder
