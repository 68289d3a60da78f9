"""A ladder of tiny networks beside a main pipeline that has run, for tests to look at and to copy."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from flows import demo
from ladder import compare, rungs, train
from tests.conftest import Reproduced
from transfer import stage

ROOT = Path(__file__).parents[2]
NETWORKS: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "mlp": {"hidden": [4]},
    **{rung: {"filters": [4, 4], "dense": 8} for rung in ("cnn", "cnn_augmented", "cnn_regularized")},
    **{rung: {"filters": [4, 4], "pairs": 1} for rung in ("plain", "residual")},
}
BY_DVC = ("residual", "measure_extraction")  # what DVC runs here; the others run in this process, which is faster


class Ladder(NamedTuple):
    """The ladder's folder, in which everything has run, and what DVC said of its part, the first time and again."""

    folder: Path
    said: str
    again: str


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
    """Run a stage in this process and in the current folder, as `python -m ...` does."""
    module = {"train": train, "compare": compare}[command[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(command))
        stage.run(module.main)


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC, which must succeed; what it and the stages said."""
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=demo.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def no_scm(config: Path) -> None:
    """Let DVC do without Git."""
    text = config.read_text()
    config.unlink()
    config.write_text(text.replace("[core]", "[core]\n    no_scm = true"))


@pytest.fixture(scope="session")
def ladder(reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A copy of the reproduced pipeline with the ladder in it; not to be changed."""
    beside = copied(reproduced.workspace, tmp_path_factory.mktemp("ladder") / "with a space")
    folder = copied(ROOT / "ladder", beside / "ladder")
    no_scm(folder / ".dvc/config")
    for made in ("dvc.lock", "params.yaml"):
        (folder / made).unlink(missing_ok=True)
    YAML().dump(params(), folder / "params.yaml")
    targets = [target if target != "residual" else "train@residual" for target in BY_DVC]
    said = dvc(folder, "repro", *targets)
    again = dvc(folder, "repro", *targets)
    with contextlib.chdir(folder):
        for rung in [rung for rung in rungs.FROM_NOTHING if rung not in BY_DVC]:
            run("train", rung)
        run("compare")
    return Ladder(folder, said, again)


@pytest.fixture
def climbed(ladder: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the ladder's folder and what lies beside it, to change; the current folder."""
    folder = copied(ladder.folder.parent, tmp_path / "with a space") / "ladder"
    monkeypatch.chdir(folder)
    return folder


def stages_said_to_run(said: str) -> list[str]:
    """The stages that DVC ran."""
    return re.findall(r"Running stage '([\w@]+)'", said)
