import platform
from pathlib import Path

from transfer.evaluation import provenance
from transfer.evaluation.consistency import TrainedNetwork
from transfer.network.backend import keras
from transfer.network.card import Card
from transfer.runtime import files

RECIPE = {"weights": "ab" * 32, "boundary": "block4_pool", "image_size": 32}


def trained(file: Path, **params: object) -> TrainedNetwork:
    """A network whose stage had these parameters."""
    file.write_bytes(file.name.encode())
    card = Card(
        sha256=files.sha256(file),
        classes=["cat", "dog"],
        image_size=32,
        resizing="crop",
        trained_on={},
        params=params,
        scores={},
    )
    return TrainedNetwork(file, card, [])


def test_parameters_are_named_as_in_params_yaml(tmp_path: Path) -> None:
    """Parameters of features and training runs have their dotted names; those of augmentation are in the last view."""
    networks = {"train_head": trained(tmp_path / "head.keras", training={"epochs": 3})}
    recipes = [RECIPE, {**RECIPE, "augmentation": {"zoom": 1.2}}]
    assert provenance.parameters(recipes, networks) == {
        "extract_features.views": 1,
        "extract_features.precision": "float32",
        "extract_features.frozen_through": "block4_pool",
        "extract_features.image_size": 32,
        "extract_features.augmentation.zoom": 1.2,
        "train_head.training.epochs": 3,
    }


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    """Manifest and weights have the hashes given, each network the SHA-256 of its file."""
    network = trained(tmp_path / "model.keras")
    assert provenance.hashes("cd" * 32, [RECIPE], {"fine_tune": network}) == {
        "photographs": "cd" * 32,
        "weights": "ab" * 32,
        "model.keras": files.sha256(network.file),
    }


def test_versions_are_those_of_the_running_process() -> None:
    """The versions are those of this Python and its packages."""
    assert provenance.versions()["Python"] == platform.python_version()
    assert provenance.versions()["Keras"] == keras.__version__


def test_nested_parameters_get_dotted_names() -> None:
    """Nested parameters have the names that error messages use; a list is one value."""
    assert provenance.flatten({"a": {"b": {"c": 1}, "d": [2]}}) == {"a.b.c": 1, "a.d": [2]}
