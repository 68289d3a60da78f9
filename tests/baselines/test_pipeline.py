"""The baselines in the DVC repository of the main pipeline."""

import re
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import graph
from tests.baselines.conftest import Baselines
from tests.conftest import digests

MAIN_STAGES = {
    "download",
    "fetch_weights",
    "subsample",
    "split",
    "extract_features",
    "train_head",
    "fine_tune",
    "evaluate",
    "export",
}


def test_one_model_can_be_trained_alone_and_only_once(baselines: Baselines) -> None:
    """`dvc repro baselines/dvc.yaml:train@residual` trains that model and no other, and then nothing has changed."""
    ran = re.findall(r"Running stage '([\w@./:]+)'", baselines.output)
    assert sorted(ran) == ["baselines/dvc.yaml:measure_extraction", "baselines/dvc.yaml:train@residual"]
    assert baselines.changed == {}


def test_a_plain_repro_leaves_the_baselines_alone(workspace: Path) -> None:
    """`dvc repro`, `dvc checkout` and `dvc status dvc.yaml` change and report no baseline, even one that is due."""
    shutil.rmtree("artifacts/baselines/compare")
    before = digests(workspace / "artifacts")
    with Repo() as repo:
        assert repo.reproduce() == []
        assert repo.checkout()["stats"] == {"added": 0, "deleted": 0, "modified": 0}
        assert repo.status(["dvc.yaml"]) == {}
        assert "baselines/dvc.yaml:compare" in repo.status()
    assert digests(workspace / "artifacts") == before


@pytest.mark.usefixtures("workspace")
def test_listings_have_the_scores_of_the_main_pipeline_alone() -> None:
    """`dvc metrics show` and `dvc plots show` list nothing of the baselines, and the flow has none of their stages."""
    with Repo() as repo:
        metrics, plots = repo.metrics.show()[""]["data"], repo.plots.show()
    assert {Path(file).parts[1] for file in metrics} <= MAIN_STAGES
    assert "artifacts/evaluate" in str(plots)
    assert "artifacts/baselines" not in str(plots)
    assert set(graph.read()) == MAIN_STAGES
