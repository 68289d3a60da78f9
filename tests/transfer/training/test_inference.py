import hashlib
from pathlib import Path

import numpy as np
import pytest

from transfer.features import store
from transfer.features.dataset import FeatureDataset
from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.network.backend import keras
from transfer.runtime.errors import DataError
from transfer.sources import synthetic
from transfer.training import inference

SIZE = 16
RECIPE = {"image_size": SIZE, "resizing": "squash"}


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A small network for pixels, with a layer named `boundary`."""
    initial = [keras.initializers.HeNormal(seed=number) for number in range(2)]
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=initial[0]),
            keras.layers.MaxPooling2D(2, name="boundary"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, activation="sigmoid", kernel_initializer=initial[1]),
        ]
    )


def drawn(folder: Path, number: int) -> manifest.Entry:
    """Write a synthetic photograph, and return its entry in the manifest."""
    data = synthetic.draw("cat", number, size=SIZE, seed=0)
    (folder / f"{number}.jpg").write_bytes(data)
    return manifest.Entry(f"{number}.jpg", "cat", hashlib.sha256(data).hexdigest(), SIZE, SIZE, "test")


def test_the_part_above_the_boundary_completes_the_network(network: keras.Model) -> None:
    """The output of the boundary layer, passed through the part above it, gives the network's own output."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    below = keras.Model(network.inputs[0], network.get_layer("boundary").output)
    above = inference.above(network, "boundary")
    np.testing.assert_allclose(above(below(pixels)), network(pixels), rtol=1e-6)


def test_a_network_without_the_boundary_is_refused(network: keras.Model) -> None:
    """A network without the layer up to which the features are computed is refused; the message names the layer."""
    with pytest.raises(DataError, match="must have the layer `block4_pool`"):
        inference.above(network, "block4_pool")


def test_every_cached_photograph_is_predicted_in_order(tmp_path: Path, network: keras.Model) -> None:
    """All batches are predicted, the last one smaller, in the order of the photographs."""
    entries = [drawn(tmp_path, number) for number in range(3)]
    recipe = {"weights": "ab" * 32}
    store.write_recipes(tmp_path, {0: recipe})
    random = np.random.default_rng(0)
    activations = random.uniform(size=(3, 7, 7, 4)).astype(np.float16)
    for entry, activation in zip(entries, activations, strict=True):
        row = store.Row(activation, activation)
        path = tmp_path / "0" / f"{entry.sha256}.npz"
        store.write_row(path, row, recipe=store.recipe_digest(recipe), photo=entry.sha256)
    batches = FeatureDataset(tmp_path, entries, classes=["cat"], part="boundary", batch_size=2)
    above = inference.above(network, "boundary")
    predicted = inference.from_cache(above, batches, description="test")
    np.testing.assert_allclose(predicted, saving.predict(above, activations.astype(np.float32)), rtol=1e-6)


def test_photographs_are_predicted_from_their_files(tmp_path: Path, network: keras.Model) -> None:
    """Each photograph is resized as the recipe says and predicted by itself; a changed file is refused."""
    entries = [drawn(tmp_path, number) for number in range(2)]
    predicted = list(inference.from_pixels(network, tmp_path, entries, RECIPE))
    for entry, probabilities in zip(entries, predicted, strict=True):
        image = decoding.decode((tmp_path / entry.path).read_bytes())
        pixels = decoding.resize(image, size=SIZE, resizing="squash")
        np.testing.assert_allclose(probabilities, saving.predict(network, pixels[np.newaxis]))
    (tmp_path / "1.jpg").write_bytes((tmp_path / "0.jpg").read_bytes())
    with pytest.raises(DataError, match=r"1\.jpg must be the photograph"):
        list(inference.from_pixels(network, tmp_path, entries, RECIPE))
