"""Inference: predict photographs from cached activations or from pixels."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.features import dataset, store
from transfer.images import decoding, manifest
from transfer.network import mirroring, neighbours, saving
from transfer.network.backend import keras
from transfer.network.neighbours import Rows
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training.calibration import Probabilities


def above(network: keras.Model, boundary: str) -> keras.Model:
    """Return the part of a network whose input is the output of the layer `boundary`, a sequential network.

    It predicts one picture from itself alone, also if the network mirrors.

    Raises:
        DataError: there is no such layer.
    """
    network = mirroring.for_one_picture(network)
    names = [layer.name for layer in network.layers]
    if boundary not in names:
        raise DataError(
            f"The network must have the layer `{boundary}`, up to which the features are computed. "
            f"Received: {', '.join(names)}. {rerun_hint('fine_tune')}"
        )
    index = names.index(boundary)
    return keras.Sequential([keras.Input(network.layers[index].output.shape[1:]), *network.layers[index + 1 :]])


def cached(
    folder: Path,
    photographs: Sequence[manifest.Entry],
    *,
    classes: Sequence[str],
    part: dataset.Part,
    batch_size: int,
    mirrored: store.Recipe | None = None,
) -> dict[str, dataset.FeatureDataset]:
    """Return features without augmentation as the arguments `batches` and `mirrored` of `from_cache` and `with_rows`.

    The arguments are those of `FeatureDataset`; without the recipe of the mirror images there are none of these.
    """
    features = partial(dataset.FeatureDataset, folder, photographs, classes=classes, part=part, batch_size=batch_size)
    return {"batches": features()} | ({"mirrored": features(mirrored=mirrored)} if mirrored else {})


def from_cache(
    network: keras.Model,
    batches: dataset.FeatureDataset,
    *,
    mirrored: dataset.FeatureDataset | None = None,
    description: str,
) -> Probabilities:
    """Predict photographs from their cached activations, with one batch in memory at a time.

    Args:
        network: the part of a network whose input is these activations; a head if there are mirror images.
        batches: activations and labels; the labels are not used.
        mirrored: the activations of their mirror images, whose log odds are averaged with those of the photographs.
        description: text of the progress bar.

    Returns:
        Array of shape (photographs, classes).

    Raises:
        DataError: a row of the cache is damaged, or a probability is not finite.
    """
    predict = _predictor(network, mirrored)
    pictures = dataset.with_mirrored(batches, mirrored, description=description)
    return np.concatenate([predict([picture.astype(np.float32) for picture in each]) for each in pictures])


def with_rows(
    network: keras.Model,
    batches: dataset.FeatureDataset,
    *,
    mirrored: dataset.FeatureDataset | None = None,
    description: str,
) -> tuple[Probabilities, Rows]:
    """Predict photographs as `from_cache` does, and return their rows for `neighbours`, too.

    Args:
        network: the part of a network whose input is these activations; its last layer is the head.
        batches: activations and labels; the labels are not used.
        mirrored: as for `from_cache`; the rows are then those of the mean of both feature maps.
        description: text of the progress bar.

    Returns:
        Arrays of shape (photographs, classes) and (photographs, channels).
    """
    trunk = keras.Sequential([keras.Input(network.input_shape[1:]), *network.layers[:-1]])
    predict = _predictor(network.layers[-1], mirrored)
    predicted, means = [], []
    for pictures in dataset.with_mirrored(batches, mirrored, description=description):
        feature_maps = [trunk(picture.astype(np.float32), training=False) for picture in pictures]
        predicted.append(predict(feature_maps))
        in_float32 = [keras.ops.cast(each, "float32") for each in feature_maps]
        of_pictures = [keras.ops.convert_to_numpy(keras.ops.mean(each, axis=(1, 2))) for each in in_float32]
        means.append(np.mean(of_pictures, axis=0))
    return np.concatenate(predicted), neighbours.normalize(np.concatenate(means))


def _predictor(
    network: keras.Model, mirrored: dataset.FeatureDataset | None
) -> Callable[[list[Any]], NDArray[np.float64]]:
    """Return a function of the inputs of photographs, and of their mirror images if there are any, to probabilities."""
    if mirrored is None:
        return lambda pictures: saving.predict(network, pictures[0])
    return partial(saving.predict, mirroring.of_both(network))


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
