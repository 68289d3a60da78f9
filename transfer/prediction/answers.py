"""Answers: predict photographs from their bytes, and give a reason for each one that cannot be read."""

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.images import decoding
from transfer.images.formats import UnreadablePhoto
from transfer.network.card import Card
from transfer.prediction import heat_maps as pictures
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime.errors import DataError

if TYPE_CHECKING:  # importing TensorFlow takes seconds: errors in the arguments are reported before
    from transfer.prediction.model import Model, Prediction


class Answer(NamedTuple):
    """The result for a photograph: a prediction or the reason for a failure, and what is requested besides.

    That is the heat map's JPEG, or features, shape (channels,).
    """

    name: str
    result: "Prediction | str"
    heat_map: bytes | None = None
    features: NDArray[np.float32] | None = None


def in_batches(
    model: "Model", photographs: Sequence[InputPhotograph], *, heat_maps: bool = False, features: bool = False
) -> Generator[Sequence[Answer], None, None]:
    """Predict photographs on all cores, and yield the answers in batches, in the order of the photographs.

    They have heat maps or features, if requested.
    """
    from transfer.features import extraction  # noqa: PLC0415 - TensorFlow, see above
    from transfer.prediction.model import BATCH  # noqa: PLC0415 - TensorFlow, see above

    function = partial(of_batch, model, heat_maps=heat_maps, features=features)
    return extraction.map_batches(function, photographs, batch=BATCH)


def of_batch(
    model: "Model", batch: Sequence[InputPhotograph], *, heat_maps: bool, features: bool = False
) -> list[Answer]:
    """Predict a few photographs in this thread.

    Raises:
        DataError: a probability is not finite, or the network has no heat maps.
    """
    card = None if heat_maps else model.card  # a heat map is drawn on the photograph itself
    decoded = [_decoded(photograph, card) for photograph in batch]
    images = [image for image in decoded if isinstance(image, Image.Image)]
    results: Iterator[tuple[Any, ...]]
    if features:
        results = ((prediction, None, row) for prediction, row in model.describe(images))
    else:
        results = iter(_explained(model, images) if heat_maps else [(result, None) for result in model.each(images)])
    return [
        Answer(photograph.name, image) if isinstance(image, str) else Answer(photograph.name, *next(results))
        for photograph, image in zip(batch, decoded, strict=True)
    ]


def reason(error: Exception) -> str:
    """Return the reason for which a photograph cannot be read."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decoded(photograph: InputPhotograph, card: Card | None) -> Image.Image | str:
    """Return the photograph, resized as a card says, or the reason why it cannot be read.

    A resized photograph takes little memory while the others of its batch are decoded.
    """
    try:
        image = decoding.decode(photograph.read())
        return Image.fromarray(decoding.resize(image, size=card.image_size, resizing=card.resizing)) if card else image
    except (UnreadablePhoto, DataError, OSError) as error:
        return reason(error)


def _explained(model: "Model", images: Sequence[Image.Image]) -> list[tuple["Prediction", bytes]]:
    return [
        (explanation.prediction, pictures.picture(image, explanation, resizing=model.card.resizing))
        for image, explanation in zip(images, model.explain(images), strict=True)
    ]
