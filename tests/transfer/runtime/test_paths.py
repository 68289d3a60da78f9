from pathlib import Path

import pytest

from transfer.runtime import paths


def test_the_cache_can_be_moved_and_scratch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DOGS_VS_CATS_CACHE` moves the shared cache; the state of a killed stage stays in its workspace."""
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    assert paths.cache("features") == Path(".cache/features")
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", "~/shared")
    assert paths.cache("features") == Path.home() / "shared" / "features"
    assert paths.scratch("training") == Path(".cache/training")


def test_a_temporary_workspace_of_dvc_has_the_cache_of_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queued run, in a copy below the project's `.dvc/tmp/exps`, uses the project's cache; any other run its own."""
    copy = tmp_path / "a project/.dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert paths.cache("features") == Path(".cache/features")
    monkeypatch.setenv("DVC_ROOT", str(copy))  # of a copy that DVC was started in by hand
    assert paths.cache("features") == Path(".cache/features")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "a project"))
    assert paths.cache("features") == tmp_path / "a project/.cache/features"
    assert paths.scratch("training") == Path(".cache/training")
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", "shared")
    assert paths.cache("features") == tmp_path / "a project/shared/features"
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", "/shared")
    assert paths.cache("features") == Path("/shared/features")


def test_a_stage_has_its_folder() -> None:
    """A stage's outputs are below artifacts/<stage>."""
    assert paths.artifact("split", "manifest.csv") == Path("artifacts/split/manifest.csv")
