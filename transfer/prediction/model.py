"""Model: a trained network that predicts photographs."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.evaluation import heatmaps
from transfer.images import decoding
from transfer.network import mirroring, neighbours, saving, thresholds
from transfer.network.backend import keras, tf
from transfer.network.card import Card
from transfer.network.thresholds import Thresholds
from transfer.prediction import model_file, versions
from transfer.runtime.errors import DataError

# Photographs computed at once. Every batch is padded to this size, so that the last bits of a prediction do not depend
# on the other photographs. One core with oneDNN, VGG16 at 224 pixels: 0.63 s a photograph with batches of 1, 0.38 s
# with batches of 2, 4 and 8; a larger batch delays the first prediction.
BATCH = 2


_Graph = Callable[[list[Any]], Any]  # its argument is a batch, and the batch of the mirror images if it needs these


class Prediction(NamedTuple):
    """The prediction for a photograph: the most probable class, its probability, and the probability of each class.

    `answer` is that class, or "not sure" or "none of these" by the network's thresholds, see `thresholds`.
    """

    class_name: str
    probability: float
    probabilities: dict[str, float]
    answer: str


class Explanation(NamedTuple):
    """A prediction, and the heat map for its class; see `heatmaps.grad_cam`."""

    prediction: Prediction
    heat: heatmaps.HeatMap


class Description(NamedTuple):
    """A prediction, and the maximum of each channel of the last convolution, shape (channels,)."""

    prediction: Prediction
    features: NDArray[np.float32]


class Model:
    """A network with its card, to predict photographs of any size.

    Args:
        network: a network as `fine_tune` saves it; its input is RGB pixels from 0 to 255, of shape
            (photographs, card.image_size, card.image_size, 3).
        card: the content of the network's `model.json`.
        name: which network it is, for the user.
        distance: of rows to the training photographs, see `neighbours`; None: every answer is a class.
    """

    def __init__(
        self, network: keras.Model, card: Card, *, name: str = "", distance: neighbours.Distance | None = None
    ) -> None:
        self.card = card
        self.name = name
        self._network = mirroring.for_one_picture(network)
        self._head_of_both = None if self._network is network else network.layers[-1]
        self._distance = distance
        self._compute = self._predictor(self._network)

    def __call__(self, photograph: str | Path | bytes) -> Prediction:
        """Predict a photograph.

        Args:
            photograph: the path of a file, or its bytes.

        Raises:
            UnreadablePhoto: the bytes are not a photograph.
            OSError: the file cannot be read.
        """
        data = photograph if isinstance(photograph, bytes) else Path(photograph).read_bytes()
        [prediction] = self.each([decoding.decode(data)])
        return prediction

    def each(self, photographs: Sequence[Image.Image]) -> list[Prediction]:
        """Predict photographs that `decoding.decode` has returned.

        Raises:
            DataError: a probability is not finite.
        """
        return [prediction for batch in self._batches(photographs) for prediction in self._predictions(batch)]

    def explain(self, photographs: Sequence[Image.Image]) -> list[Explanation]:
        """Predict photographs, and compute the heat map of each for its class.

        Raises:
            DataError: a probability is not finite, or the network has no convolution or no head.
        """
        return [explanation for batch in self._batches(photographs) for explanation in self._explanations(batch)]

    def describe(self, photographs: Sequence[Image.Image]) -> list[Description]:
        """Predict photographs, and compute the features that tell how similar they are.

        Raises:
            DataError: a probability is not finite, or the network has no convolution or no head.
        """
        return [description for batch in self._batches(photographs) for description in self._descriptions(batch)]

    def _batches(self, photographs: Sequence[Image.Image]) -> list[decoding.Pixels]:
        size, resizing = self.card.image_size, self.card.resizing
        pixels = [decoding.resize(photograph, size=size, resizing=resizing) for photograph in photographs]
        return [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]

    def _predictions(self, pixels: decoding.Pixels) -> list[Prediction]:
        return self._answered(*self._compute(self._pictures(pixels)))[: len(pixels)]

    def _explanations(self, pixels: decoding.Pixels) -> list[Explanation]:
        parts, below, above = self._parts
        activations = [below([picture]) for picture in self._pictures(pixels)]
        predictions = self._answered(*above(activations))
        numbers = [self.card.classes.index(prediction.class_name) for prediction in predictions]
        heats = heatmaps.grad_cam_from_activations(parts, activations[0], numbers)
        return [Explanation(*pair) for pair in zip(predictions, heats, strict=True)][: len(pixels)]

    def _descriptions(self, pixels: decoding.Pixels) -> list[Description]:
        _, below, above = self._parts
        activations = [below([picture]) for picture in self._pictures(pixels)]
        predictions = self._answered(*above(activations))
        features = np.asarray(activations[0], np.float32).max(axis=(1, 2))
        return [Description(*pair) for pair in zip(predictions, features, strict=True)][: len(pixels)]

    def _pictures(self, pixels: decoding.Pixels) -> list[decoding.Pixels]:
        """Return a batch padded to its full size, and its mirror images if the network predicts from them, too."""
        padded = np.pad(pixels, ((0, BATCH - len(pixels)), (0, 0), (0, 0), (0, 0)))
        return [padded] if self._head_of_both is None else [padded, padded[:, :, ::-1]]

    @cached_property
    def _parts(self) -> tuple[heatmaps.Parts, _Graph, _Graph]:
        """The network's parts below and above its last convolution, so that one pass gives prediction and heat map."""
        parts = heatmaps.parts(self._network)
        inputs = keras.Input(parts.below.output_shape[1:])
        above = keras.Sequential([inputs, *parts.above.layers[:-1], self._network.layers[-1]])
        return parts, _as_graph(lambda pictures: parts.below(pictures[0], training=False)), self._predictor(above)

    def _predictor(self, network: keras.Model) -> _Graph:
        """Compile the network, or a part that ends in its head, to a function that returns what `_answered` takes."""
        if self._distance is None and self._head_of_both is None:
            return _as_graph(lambda pictures: (network(pictures[0], training=False), None))
        return _with_means(network, self._head_of_both)

    def _answered(self, output: Any, means: Any) -> list[Prediction]:
        """Return the predictions of a batch from the network's output and the means of its features, if needed."""
        classes, fitted = self.card.classes, self.card.thresholds
        rows = saving.probabilities(output)
        if self._distance is None or fitted is None:
            answers = [classes[number] for number in rows.argmax(axis=1)]
        else:
            distances = self._distance(neighbours.normalize(means.numpy()))
            answers = thresholds.answers(rows, distances, fitted, classes)
        return [_prediction(row, answer, classes) for row, answer in zip(rows, answers, strict=True)]


def load(model: str | Path | None = None, *, always: bool = False) -> Model:
    """Read a trained network and the `model.json` in its folder.

    Args:
        model: a file, or a version such as `v2.0.0`; None for the version in production, or the newest network if none
            is in production. The result's `name` tells which it is.
        always: answer with a class always; the rows of the training photographs are not read.

    Raises:
        DataError: there is no such version, a file is missing or damaged, or the two do not belong together.
    """
    return load_selected(versions.select(versions.project(), None if model is None else str(model)), always=always)


def load_selected(selected: versions.Selected, *, always: bool = False) -> Model:
    """Read the network that `versions.select` returns; `always` as in `load`.

    Raises:
        DataError: a file is missing or damaged, or the network and its `model.json` do not belong together.
    """
    card = model_file.check(selected.file)
    network = saving.load(selected.file)
    _check_shapes(network, card, selected.file)
    if card.mirror != (mirroring.parts(network) is not None):
        raise DataError(
            f"{selected.file} must predict from mirror images if its model.json says so, and only then. Received: "
            f"`mirror: {str(card.mirror).lower()}` and another network. Copy both from one folder."
        )
    distance = None if always or card.thresholds is None else _distance(network, card.thresholds, selected.file)
    return Model(network, card, name=selected.description, distance=distance)


def _distance(network: keras.Model, fitted: Thresholds, file: Path) -> neighbours.Distance:
    """Read the rows of the training photographs from the network's folder.

    Raises:
        DataError: the file is missing or damaged, or the network does not end in a head.
    """
    features = mirroring.for_one_picture(network).layers[-1].input.shape
    hint = "Copy it from the folder in which the network was saved, or predict with `--answer always`."
    if len(features) != 4:
        raise DataError(f"{file} must end in a head for feature maps. Received: inputs of the shape {features}. {hint}")
    rows = neighbours.read(
        file.with_name(neighbours.FILE_NAME), sha256=fitted.rows, channels=int(features[-1]), hint=hint
    )
    return neighbours.distance_to(rows, neighbours=fitted.neighbours)


def _check_shapes(network: keras.Model, card: Card, file: Path) -> None:
    """Check that a network has the input and output shapes of its card.

    Raises:
        DataError: a shape differs; the message has all of them.
    """
    expected = (
        (None, card.image_size, card.image_size, 3),
        (None, 1 if len(card.classes) == 2 else len(card.classes)),
    )
    received = (network.input_shape, network.output_shape)
    if received != expected:
        raise DataError(
            f"{file} must have the input shape {expected[0]} and the output shape {expected[1]}: its model.json has "
            f"image_size {card.image_size} and {len(card.classes)} classes. Received: {received[0]} and {received[1]}. "
            "Use a complete network, as `fine_tune` saves it, with its own model.json."
        )


def _prediction(row: NDArray[np.float64], answer: str, classes: Sequence[str]) -> Prediction:
    best = int(row.argmax())
    return Prediction(classes[best], float(row[best]), dict(zip(classes, row.tolist(), strict=True)), answer)


def _with_means(network: keras.Model, head_of_both: keras.Model | None) -> _Graph:
    """Compile a network to a function that returns the mean features that its head receives, too.

    With a head of both it predicts from photographs and their mirror images, and the means are those of both.
    """
    pixels = keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype)
    trunk = keras.Sequential([pixels, *network.layers[:-1]])

    def outputs(pictures: list[Any]) -> tuple[Any, Any]:
        features = [trunk(picture, training=False) for picture in pictures]
        head, received = (head_of_both, features) if head_of_both else (network.layers[-1], features[0])
        means = sum(keras.ops.mean(each, axis=(1, 2)) for each in features) / len(features)
        return head(received, training=False), means

    return _as_graph(outputs)


def _as_graph(function: _Graph) -> _Graph:
    """Compile a function of networks to one that several threads may call and that is faster."""
    graph: _Graph = tf.function(function, jit_compile=False, reduce_retracing=True)
    return graph
