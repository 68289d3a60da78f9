import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from transfer import heads, models
from transfer.backend import keras
from transfer.errors import DataError


def head() -> keras.Model:
    """A small network."""
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[4], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    return heads.build(settings, feature_map=(2, 2, 8), classes=2, seed=1)


def test_a_network_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Equal networks are equal files, built and saved seconds apart."""
    models.save(head(), tmp_path / "one.keras")
    time.sleep(2.1)  # a zip's times have two seconds' resolution
    models.save(head(), tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    """A saved network gives the same probabilities, and is an ordinary .keras file."""
    model = head()
    models.save(model, tmp_path / "head.keras")
    maps = np.random.default_rng(0).normal(size=(3, 2, 2, 8)).astype(np.float32)
    for loaded in (models.load(tmp_path / "head.keras"), keras.saving.load_model(tmp_path / "head.keras")):
        np.testing.assert_array_equal(loaded.predict(maps, verbose=0), model.predict(maps, verbose=0))


def test_code_in_a_network_is_not_run(tmp_path: Path) -> None:
    """A network with a Lambda layer is refused."""
    hostile = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)])
    hostile.save(tmp_path / "hostile.keras")
    with pytest.raises(DataError, match="not a network this project saved"):
        models.load(tmp_path / "hostile.keras")


@pytest.mark.parametrize("cut", [0, 100, 2000])
def test_a_damaged_network_is_refused_with_the_cure(tmp_path: Path, cut: int) -> None:
    """A file that was cut short is named, with what to do."""
    models.save(head(), tmp_path / "head.keras")
    (tmp_path / "head.keras").write_bytes((tmp_path / "head.keras").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"head\.keras.*Rerun the stage"):
        models.load(tmp_path / "head.keras")


def test_nothing_is_left_beside_a_saved_network(tmp_path: Path) -> None:
    """Saving leaves one file, which holds configuration and weights and no date."""
    models.save(head(), tmp_path / "head.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["head.keras"]
    with zipfile.ZipFile(tmp_path / "head.keras") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert b"1980-01-01" in archive.read("metadata.json")
