import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import disks
from transfer.network import card, heads, saving
from transfer.network.backend import keras
from transfer.runtime import files
from transfer.runtime.errors import DataError, DiskError


def head() -> keras.Model:
    """A small network."""
    settings = heads.Params(
        pooling="average", batch_normalization=True, dense=[4], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
    )
    return heads.build(settings, feature_map=(2, 2, 8), classes=2, seed=1)


def test_a_network_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Equal networks are equal files, built and saved seconds apart."""
    saving.save(head(), tmp_path / "one.keras")
    time.sleep(2.1)  # a zip's times have two seconds' resolution
    saving.save(head(), tmp_path / "two.keras")
    assert (tmp_path / "one.keras").read_bytes() == (tmp_path / "two.keras").read_bytes()


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    """A saved network gives the same probabilities, and is an ordinary .keras file."""
    model = head()
    saving.save(model, tmp_path / "head.keras")
    maps = np.random.default_rng(0).normal(size=(3, 2, 2, 8)).astype(np.float32)
    for loaded in (saving.load(tmp_path / "head.keras"), keras.saving.load_model(tmp_path / "head.keras")):
        np.testing.assert_array_equal(loaded.predict(maps, verbose=0), model.predict(maps, verbose=0))


@pytest.mark.reliability("disk", "no room to save a network", "exit 74 with what is needed; the earlier one stays")
def test_a_network_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    """On a disk too small for the file it is asked for beforehand, and nothing half is left."""
    large = keras.Sequential([keras.Input((400,)), keras.layers.Dense(400)])
    with disks.small(tmp_path / "disk", "size=1m") as disk:
        saving.save(head(), disk.path / "head.keras")
        before = (disk.path / "head.keras").read_bytes()
        with pytest.raises(DiskError, match=rf"`{disk.path}` must have 1\.28 MB free\. Received: 1\."):
            saving.save(large, disk.path / "head.keras")
        assert (disk.path / "head.keras").read_bytes() == before
        assert len(list(disk.path.iterdir())) == 1


@pytest.mark.reliability("tampered", "a damaged model", "refused in one line that a terminal can show, with the cure")
@pytest.mark.parametrize("cut", [0, 100, 2000])
def test_a_damaged_network_is_refused_with_the_cure(tmp_path: Path, cut: int) -> None:
    """A file that was cut short is named, with what to do."""
    saving.save(head(), tmp_path / "head.keras")
    (tmp_path / "head.keras").write_bytes((tmp_path / "head.keras").read_bytes()[:cut])
    with pytest.raises(DataError, match=r"head\.keras.*Rerun the stage"):
        saving.load(tmp_path / "head.keras")


def test_a_network_is_written_with_its_card(tmp_path: Path) -> None:
    """model.json lies beside the network and says its sha256."""
    saving.write(tmp_path / "head.keras", head(), {name: value for name, value in CARD.items() if name != "sha256"})
    found = card.verified_card(tmp_path / "head.keras", cure="")
    assert found.model_dump() == {**CARD, "sha256": files.sha256(tmp_path / "head.keras")}


@pytest.mark.reliability(
    "tampered", "a model or a model.json put in another's place", "65 with both sha256s and the cure"
)
def test_a_card_of_another_network_is_refused(tmp_path: Path) -> None:
    """A network of the same shapes, but of other weights, is not the one that the card tells the classes of."""
    saving.write(tmp_path / "head.keras", head(), {name: value for name, value in CARD.items() if name != "sha256"})
    other = head()
    other.set_weights([weights + 1 for weights in other.get_weights()])
    saving.save(other, tmp_path / "head.keras")
    with pytest.raises(
        DataError, match=r"head\.keras must be the network .* Received: [0-9a-f]{12}\. Fetch it again\."
    ):
        card.verified_card(tmp_path / "head.keras", cure="Fetch it again.")


CARD = {
    "sha256": "cd" * 32,
    "classes": ["cat", "dog"],
    "image_size": 32,
    "resizing": "crop",
    "trained_on": {"photographs": "ab" * 32},
    "params": {"seed": 0},
    "scores": {"epochs": 3},
}


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    """What a stage writes to model.json is what is read of it."""
    recipe = {"image_size": CARD["image_size"], "resizing": CARD["resizing"]}
    made = card.describe(["cat", "dog"], recipe, {"photographs": "ab" * 32}, {"seed": 0}, {"epochs": 3})
    written = {"sha256": CARD["sha256"], **made}
    files.write_json(tmp_path / "model.json", written)
    assert card.read_card(tmp_path / "model.json", cure="").model_dump() == written == CARD


@pytest.mark.reliability("tampered", "a damaged model.json", "65, what is wrong with it, and the cure")
@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"classes": ["cat"]}, "classes"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": 1_000_000}, "image_size"),
        ({"resizing": "stretch"}, "resizing"),
    ],
)
def test_a_wrong_card_is_refused_with_the_cure(tmp_path: Path, change: dict[str, object], received: str) -> None:
    """A model.json that says something else than it should is named, with what is wrong and what to do."""
    (tmp_path / "model.json").write_text(json.dumps({**CARD, **change}))
    with pytest.raises(
        DataError, match=rf"model\.json must be JSON with sha256, classes.* {received}.*: .*\. Fetch it again\."
    ):
        card.read_card(tmp_path / "model.json", cure="Fetch it again.")


def test_one_output_is_the_probability_of_the_second_class() -> None:
    """A sigmoid becomes a column for each of two classes; a softmax keeps its columns, which add up to one."""
    one = saving.predict(keras.layers.Identity(), np.array([[0.25], [1.0]], np.float32))
    np.testing.assert_array_equal(one, [[0.75, 0.25], [0.0, 1.0]])
    more = saving.predict(keras.layers.Identity(), np.array([[0.1, 0.2, 0.7]], np.float32))
    np.testing.assert_allclose(more, [[0.1, 0.2, 0.7]], rtol=1e-6)
    assert more.sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_gives_no_numbers_is_refused(value: float) -> None:
    """NaN is no probability."""
    with pytest.raises(DataError, match="finite"):
        saving.predict(keras.layers.Identity(), np.array([[value]]))


def test_nothing_is_left_beside_a_saved_network(tmp_path: Path) -> None:
    """Saving leaves one file, which holds configuration and weights and no date."""
    saving.save(head(), tmp_path / "head.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["head.keras"]
    with zipfile.ZipFile(tmp_path / "head.keras") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert b"1980-01-01" in archive.read("metadata.json")
