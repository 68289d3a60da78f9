"""Provenance: the parameters, hashes and versions behind an evaluation, as the report lists them."""

import platform
from collections.abc import Mapping, Sequence

from transfer import __version__
from transfer.evaluation.consistency import TrainedNetwork
from transfer.features.store import Recipe, precision
from transfer.network.backend import keras, tf
from transfer.runtime import files

_PARAMETERS = {"boundary": "frozen_through"}  # keys of a recipe whose parameter has another name


def parameters(recipes: Sequence[Recipe], trained: Mapping[str, TrainedNetwork]) -> dict[str, object]:
    """Return the parameters of the features and of the training runs by dotted name.

    Args:
        recipes: the recipe of each view. The last one has the parameters of augmentation if there are augmented views.
        trained: networks by the stage that trained them.
    """
    recipe = {_PARAMETERS.get(name, name): value for name, value in recipes[-1].items() if name != "weights"}
    mirror = {"mirror": True} if any(network.card.mirror for network in trained.values()) else {}
    features = {"views": len(recipes) - 1, "precision": precision(recipes[0]), **recipe, **mirror}
    return flatten({"extract_features": features, **{stage: network.card.params for stage, network in trained.items()}})


def hashes(photographs: str, recipes: Sequence[Recipe], trained: Mapping[str, TrainedNetwork]) -> dict[str, str]:
    """Return the SHA-256 of the manifest, of the weights and of each network's file.

    Args:
        photographs: SHA-256 of the manifest.
        recipes: the recipe of each view.
        trained: networks by the stage that trained them.
    """
    networks = {network.file.name: files.sha256(network.file) for network in trained.values()}
    return {"photographs": photographs, "weights": recipes[0]["weights"], **networks}


def versions() -> dict[str, str]:
    """Return the versions of the project, Python, Keras and TensorFlow."""
    return {
        "dogs-vs-cats": __version__,
        "Python": platform.python_version(),
        "Keras": keras.__version__,
        "TensorFlow": tf.__version__,
    }


def flatten(params: Mapping[str, object]) -> dict[str, object]:
    """Return nested parameters by their dotted names, as in `fine_tune.training.epochs`."""
    flat: dict[str, object] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": nested for key, nested in flatten(value).items()}
        else:
            flat[name] = value
    return flat
