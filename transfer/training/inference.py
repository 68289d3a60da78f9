"""Inference: predict photographs from cached activations or from pixels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transfer.features import dataset, store
from transfer.images import decoding, manifest
from transfer.network import neighbours, saving
from transfer.network.backend import keras
from transfer.network.neighbours import Rows
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training.calibration import Probabilities


def above(network: keras.Model, boundary: str) -> keras.Model:
    """Return the part of a network whose input is the output of the layer `boundary`.

    Raises:
        DataError: there is no such layer.
    """
    names = [layer.name for layer in network.layers]
    if boundary not in names:
        raise DataError(
            f"The network must have the layer `{boundary}`, up to which the features are computed. "
            f"Received: {', '.join(names)}. {rerun_hint('fine_tune')}"
        )
    index = names.index(boundary)
    return keras.Sequential([keras.Input(network.layers[index].output.shape[1:]), *network.layers[index + 1 :]])


def from_cache(network: keras.Model, batches: dataset.FeatureDataset, *, description: str) -> Probabilities:
    """Predict photographs from their cached activations, with one batch in memory at a time.

    Args:
        network: the part of a network whose input is these activations.
        batches: activations and labels; the labels are not used.
        description: text of the progress bar.

    Returns:
        Array of shape (photographs, classes).

    Raises:
        DataError: a row of the cache is damaged, or a probability is not finite.
    """
    activations = dataset.activations(batches, description=description)
    return np.concatenate([saving.predict(network, each.astype(np.float32)) for each in activations])


def with_rows(network: keras.Model, batches: dataset.FeatureDataset, *, description: str) -> tuple[Probabilities, Rows]:
    """Predict photographs as `from_cache` does, and return their rows for `neighbours`, too.

    Args:
        network: the part of a network whose input is these activations; its last layer is the head.
        batches: activations and labels; the labels are not used.
        description: text of the progress bar.

    Returns:
        Arrays of shape (photographs, classes) and (photographs, channels).
    """
    trunk = keras.Sequential([keras.Input(network.input_shape[1:]), *network.layers[:-1]])
    predicted, means = [], []
    for activations in dataset.activations(batches, description=description):
        feature_maps = trunk(activations.astype(np.float32), training=False)
        predicted.append(saving.predict(network.layers[-1], feature_maps))
        means.append(keras.ops.convert_to_numpy(keras.ops.mean(feature_maps, axis=(1, 2))))
    return np.concatenate(predicted), neighbours.normalize(np.concatenate(means))


def from_pixels(
    network: keras.Model, folder: Path, photographs: Sequence[manifest.Entry], recipe: store.Recipe
) -> Iterator[Probabilities]:
    """Predict photographs from their files, one at a time.

    Args:
        network: a network whose input is pixels.
        folder: the folder that the photographs' paths are relative to.
        photographs: the photographs' entries in the manifest.
        recipe: the recipe of the features, which has the size and the resizing.

    Yields:
        For each photograph an array of shape (1, classes).

    Raises:
        DataError: a file differs from the manifest's sha256.
    """
    for photograph in photographs:
        pixels = decoding.read_square(folder, photograph, size=recipe["image_size"], resizing=recipe["resizing"])
        yield saving.predict(network, pixels[np.newaxis])
