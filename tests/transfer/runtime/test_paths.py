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


def test_a_stage_has_its_folder() -> None:
    """A stage's outputs are below artifacts/<stage>."""
    assert paths.artifact("split", "manifest.csv") == Path("artifacts/split/manifest.csv")
