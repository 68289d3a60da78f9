import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import disks
from transfer.network import heads, saving
from transfer.network.backend import keras
from transfer.runtime.errors import DataError, DiskError


def head() -> keras.Model:
    """Build a small network."""
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[4], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    return heads.build(settings, feature_map=(2, 2, 8), classes=2, seed=1)


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    """Equal networks that are built and saved seconds apart have the same bytes."""
    saving.save(head(), tmp_path / "first.keras")
    time.sleep(2.1)  # the times in a zip archive have a resolution of two seconds
    saving.save(head(), tmp_path / "second.keras")
    assert (tmp_path / "first.keras").read_bytes() == (tmp_path / "second.keras").read_bytes()


def test_a_loaded_network_is_the_saved_one(tmp_path: Path) -> None:
    """A loaded network gives the same probabilities, and Keras alone can load its file."""
    model = head()
    saving.save(model, tmp_path / "head.keras")
    maps = np.random.default_rng(0).normal(size=(3, 2, 2, 8)).astype(np.float32)
    for loaded in (saving.load(tmp_path / "head.keras"), keras.saving.load_model(tmp_path / "head.keras")):
        np.testing.assert_array_equal(loaded.predict(maps, verbose=0), model.predict(maps, verbose=0))


@pytest.mark.reliability(
    "disk", "no space to save a network", "exit 74 with the space needed; the earlier network stays"
)
def test_a_network_is_saved_completely_or_not_at_all(tmp_path: Path) -> None:
    """A disk too small for the file is reported before it is written, and no incomplete file is left."""
    large = keras.Sequential([keras.Input((400,)), keras.layers.Dense(400)])
    with disks.small(tmp_path / "disk", "size=1m") as disk:
        saving.save(head(), disk.path / "head.keras")
        before = (disk.path / "head.keras").read_bytes()
        with pytest.raises(DiskError, match=rf"`{disk.path}` must have 1\.28 MB free\. Received: 1\."):
            saving.save(large, disk.path / "head.keras")
        assert (disk.path / "head.keras").read_bytes() == before
        assert len(list(disk.path.iterdir())) == 1


@pytest.mark.reliability("tampered", "a damaged model", "65 and one printable line that says what to do")
@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_damaged_network_is_rejected_with_a_hint(tmp_path: Path, size: int) -> None:
    """A truncated file is named, with what to do."""
    saving.save(head(), tmp_path / "head.keras")
    (tmp_path / "head.keras").write_bytes((tmp_path / "head.keras").read_bytes()[:size])
    with pytest.raises(DataError, match=r"head\.keras.*Rerun the stage"):
        saving.load(tmp_path / "head.keras")


def test_one_output_is_the_probability_of_the_second_class() -> None:
    """A sigmoid becomes a column for each of two classes; a softmax keeps its columns, which sum to one."""
    sigmoid = saving.predict(keras.layers.Identity(), np.array([[0.25], [1.0]], np.float32))
    np.testing.assert_array_equal(sigmoid, [[0.75, 0.25], [0.0, 1.0]])
    softmax = saving.predict(keras.layers.Identity(), np.array([[0.1, 0.2, 0.7]], np.float32))
    np.testing.assert_allclose(softmax, [[0.1, 0.2, 0.7]], rtol=1e-6)
    assert softmax.sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_rejected(value: float) -> None:
    """NaN and infinity are no probabilities."""
    with pytest.raises(DataError, match="finite"):
        saving.predict(keras.layers.Identity(), np.array([[value]]))


def test_saving_leaves_one_file_without_a_date(tmp_path: Path) -> None:
    """Saving leaves no temporary file, and the file contains no date."""
    saving.save(head(), tmp_path / "head.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["head.keras"]
    with zipfile.ZipFile(tmp_path / "head.keras") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert b"1980-01-01" in archive.read("metadata.json")
