"""The whole chain on real photographs and real weights, where there are any."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import demo

ROOT = Path(__file__).parent.parent
STAGES = (
    "download",
    "fetch_weights",
    "subsample",
    "split",
    "extract_features",
    "train_head",
    "fine_tune",
    "evaluate",
)
PARAMS: dict[str, dict[str, Any]] = {
    "download": {"source": "inbox"},
    "fetch_weights": {"source": "inbox"},
    "subsample": {"photographs": 200},
    "split": {"validation": 0.25, "test": 0.25},
    "extract_features": {"image_size": 128, "views": 1},
    "train_head": {"training": {"epochs": 15}},
    "fine_tune": {"training": {"epochs": 1}},
}


def named(variable: str) -> Path:
    """The file an environment variable names."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no file")
    return Path(path)


@pytest.mark.real
def test_cats_and_dogs_are_told_apart(tmp_path: Path) -> None:
    """From the archives in the inbox to the report: two hundred small photographs are enough for nine in ten."""
    photographs, weights = named("DOGS_VS_CATS_PHOTOS"), named("DOGS_VS_CATS_WEIGHTS")
    (tmp_path / "inbox").mkdir()
    for file in (photographs, weights):
        shutil.copy(file, tmp_path / "inbox" / file.name)
    yaml = YAML()
    yaml.dump(demo.merged(yaml.load(ROOT / "params.yaml"), PARAMS), tmp_path / "params.yaml")
    for stage in STAGES:
        result = subprocess.run(
            [sys.executable, "-m", f"tasks.{stage}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "artifacts/evaluate/metrics.json").read_text())
    assert metrics["train_head"]["accuracy"] >= 0.85
    assert metrics["fine_tune"]["accuracy"] >= 0.85
    assert (tmp_path / "artifacts/evaluate/report.html").exists()
