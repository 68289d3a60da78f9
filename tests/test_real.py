"""The pipeline on real photographs and real weights, if environment variables name them."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import sandbox
from tests import stages

PARAMS: dict[str, dict[str, Any]] = {
    "download": {"source": "inbox"},
    "fetch_weights": {"source": "inbox"},
    "subsample": {"photographs": 200},
    "split": {"validation": 0.25, "test": 0.25},
    "extract_features": {"image_size": 128, "views": 1},
    "train_head": {"training": {"epochs": 15}},
    "fine_tune": {"training": {"epochs": 1}},
}


def file_named_by(variable: str) -> Path:
    """Return the file that an environment variable names, or skip the test."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no file")
    return Path(path)


@pytest.mark.real
def test_two_hundred_photographs_give_85_percent_accuracy(tmp_path: Path) -> None:
    """From archives in the inbox to the report, both networks classify at least 85 % of the test photographs."""
    (tmp_path / "inbox").mkdir()
    for variable in ("DOGS_VS_CATS_PHOTOS", "DOGS_VS_CATS_WEIGHTS"):
        file = file_named_by(variable)
        shutil.copy(file, tmp_path / "inbox" / file.name)
    yaml = YAML()
    yaml.dump(sandbox.merged(yaml.load(stages.ROOT / "params.yaml"), PARAMS), tmp_path / "params.yaml")
    stages.run_all(tmp_path)
    metrics = json.loads((tmp_path / "artifacts/evaluate/metrics.json").read_text())
    assert metrics["train_head"]["accuracy"] >= 0.85
    assert metrics["fine_tune"]["accuracy"] >= 0.85
    assert (tmp_path / "artifacts/evaluate/report.html").exists()
