"""Networks of known quality for tests: they answer each of some photographs with a chosen certainty."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.network.backend import keras
from transfer.network.card import FILE_NAME, describe
from transfer.runtime import files

SIZE = 16  # of the networks' input


def write(
    folder: Path, photographs: Path, entries: Sequence[manifest.Entry], *, logit: float, trained_on: Path
) -> Path:
    """Write a network whose log odds for the true class of each photograph are `logit`; return its file.

    Args:
        folder: the folder for `model.keras` and `model.json`.
        photographs: the folder that the entries' paths are relative to.
        entries: the photographs, of two classes, fewer than the network has weights.
        logit: negative for wrong answers.
        trained_on: the manifest of the photographs that the card says it was trained on.
    """
    classes = manifest.classes(entries)
    decoded = [decoding.read_photo(photographs / entry.path, sha256=entry.sha256) for entry in entries]
    pixels = np.stack([decoding.resize(image, size=SIZE, resizing="crop") for image in decoded]) / 255.0
    inputs = np.hstack([pixels.reshape(len(entries), -1), np.ones((len(entries), 1))])
    signs = np.array([2 * classes.index(entry.class_name) - 1 for entry in entries])
    weights = np.linalg.lstsq(inputs, signs * logit, rcond=None)[0]
    network = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    network.layers[-1].set_weights([weights[:-1, np.newaxis], weights[-1:]])
    card = describe(
        classes, {"image_size": SIZE, "resizing": "crop"}, {"photographs": files.sha256(trained_on)}, {}, {}
    )
    for name in ("model.keras", FILE_NAME):  # may be hard links to the files of others
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    saving.write(folder / "model.keras", network, card)
    return folder / "model.keras"


def write_by_colour(folder: Path, *, certainty: float = 10.0) -> Path:
    """Write a network with heat maps that takes red photographs for dogs and blue ones for cats; return its file.

    Args:
        folder: the folder for `model.keras` and `model.json`.
        certainty: the log odds of pure colours; negative for the opposite classes.
    """
    feature_map = keras.Input((SIZE, SIZE, 3))
    dense = keras.layers.Dense(1, activation="sigmoid")
    head = keras.Model(feature_map, dense(keras.layers.GlobalAveragePooling2D()(feature_map)), name="head")
    convolution = keras.layers.Conv2D(3, 1)
    network = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), convolution, head]
    )
    convolution.set_weights([np.eye(3)[np.newaxis, np.newaxis], np.zeros(3)])
    dense.set_weights([np.array([[certainty], [0.0], [-certainty]]), np.zeros(1)])
    scores = {"val_accuracy": 0.985, "val_loss": 0.042}
    card = describe(["cat", "dog"], {"image_size": SIZE, "resizing": "crop"}, {}, {}, scores)
    folder.mkdir(parents=True, exist_ok=True)
    saving.write(folder / "model.keras", network, card)
    return folder / "model.keras"
