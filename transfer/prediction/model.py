"""Prediction: a trained network, and what it says of photographs."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.evaluation import heatmaps
from transfer.images import decoding
from transfer.network import saving
from transfer.network.backend import keras, tf
from transfer.network.card import Card, verified_card
from transfer.runtime.errors import DataError

# Photographs computed at once, always as many, so that a photograph's last bits do not depend on its company.
# One core with oneDNN, VGG16 at 224 pixels: 0.63 s a photograph one at a time, 0.38 s by two, by four and by eight;
# and a single photograph waits for its batch.
BATCH = 2


class Prediction(NamedTuple):
    """What a network says of a photograph: the likeliest class, its probability, and that of every class."""

    class_name: str
    probability: float
    probabilities: dict[str, float]


class Explanation(NamedTuple):
    """A prediction, and the heat map of what in the photograph spoke for it; see `heatmaps.of`."""

    prediction: Prediction
    heat: heatmaps.HeatMap


class Model:
    """A network that takes photographs, with all that its `model.json` says of them.

    Args:
        network: as `fine_tune` saves it: it takes `card.image_size` squares of RGB pixels from 0 to 255.
        card: its own.
    """

    def __init__(self, network: keras.Model, card: Card) -> None:
        self.card = card
        self._network = network
        self._compute = _as_graph(network)

    def __call__(self, photograph: str | Path | bytes) -> Prediction:
        """Say what a photograph shows.

        Args:
            photograph: a file, or the bytes of one.

        Raises:
            UnreadablePhoto: it is none.
            OSError: the file cannot be read.
        """
        data = photograph if isinstance(photograph, bytes) else Path(photograph).read_bytes()
        [found] = self.each([decoding.decode(data)])
        return found

    def each(self, photographs: Sequence[Image.Image]) -> list[Prediction]:
        """Say what each of some photographs shows; they are as `photos.read` gives them.

        Raises:
            DataError: the network gives no finite numbers.
        """
        return [self._prediction(row) for batch in self._batches(photographs) for row in self._rows(batch)]

    def explain(self, photographs: Sequence[Image.Image]) -> list[Explanation]:
        """Say what each of some photographs shows, and what in it spoke for that.

        Raises:
            DataError: the network gives no finite numbers, or is not made as heat maps need it.
        """
        return [each for batch in self._batches(photographs) for each in self._explanations(batch)]

    def _batches(self, photographs: Sequence[Image.Image]) -> list[decoding.Pixels]:
        size, resizing = self.card.image_size, self.card.resizing
        pixels = [decoding.resize(photograph, size=size, resizing=resizing) for photograph in photographs]
        return [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]

    def _rows(self, pixels: decoding.Pixels) -> NDArray[np.float64]:
        return saving.predict(self._compute, _filled(pixels))[: len(pixels)]

    def _explanations(self, pixels: decoding.Pixels) -> list[Explanation]:
        parts, below, above = self._parts
        activations = below(_filled(pixels), training=False)
        rows = saving.predict(above, activations)
        heat = heatmaps.grad_cam_from_activations(parts, activations, list(rows.argmax(axis=1)))
        found = [Explanation(self._prediction(row), each) for row, each in zip(rows, heat, strict=True)]
        return found[: len(pixels)]

    @cached_property
    def _parts(self) -> tuple[heatmaps.Parts, Callable[..., Any], Callable[..., Any]]:
        """The network taken apart at its last convolution, so that one pass serves class and heat map."""
        parts = heatmaps.parts(self._network)
        return parts, _as_graph(parts.below), _as_graph(keras.Sequential([parts.above, parts.last]))

    def _prediction(self, row: NDArray[np.float64]) -> Prediction:
        best = int(row.argmax())
        probabilities = dict(zip(self.card.classes, row.tolist(), strict=True))
        return Prediction(self.card.classes[best], float(row[best]), probabilities)


def load(path: str | Path) -> Model:
    """Read a trained network and the `model.json` that lies beside it.

    Raises:
        DataError: one of them is missing or damaged, or they do not belong together.
    """
    file, card_file = Path(path), Path(path).with_name("model.json")
    network = saving.load(file)
    try:
        card = verified_card(file, cure="Take the two files that were made together.")
    except FileNotFoundError:
        raise DataError(
            f"{file} must have its {card_file.name} beside it, which says the classes and how to resize. "
            f"Received: no {card_file}. Copy it from where the model was made."
        ) from None
    _refuse_strangers(network, card, file)
    return Model(network, card)


def _refuse_strangers(network: keras.Model, card: Card, file: Path) -> None:
    """Stop where a network takes or gives something else than its card says.

    Raises:
        DataError: with both shapes.
    """
    expected = (
        (None, card.image_size, card.image_size, 3),
        (None, 1 if len(card.classes) == 2 else len(card.classes)),
    )
    received = (network.input_shape, network.output_shape)
    if received != expected:
        raise DataError(
            f"{file} must take squares of {card.image_size} pixels and tell {len(card.classes)} classes apart, as its "
            f"model.json says: shapes {expected[0]} and {expected[1]}. Received: {received[0]} and {received[1]}. "
            "Use a whole network, as `fine_tune` saves it, with the model.json that was made with it."
        )


def _filled(pixels: decoding.Pixels) -> decoding.Pixels:
    return np.pad(pixels, ((0, BATCH - len(pixels)), (0, 0), (0, 0), (0, 0)))


def _as_graph(network: keras.Model) -> Callable[..., Any]:
    """A network as a function that several threads may call; faster than layer by layer."""
    graph: Callable[..., Any] = tf.function(
        lambda rows, training: network(rows, training=training), jit_compile=False, reduce_retracing=True
    )
    return graph
