"""Least certain: which photographs to label next, by the network's uncertainty and by their variety."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.images import contact_sheet, decoding
from transfer.images.formats import UnreadablePhoto
from transfer.prediction.formats import printable
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime import files
from transfer.runtime.errors import DataError

if TYPE_CHECKING:  # importing TensorFlow takes seconds
    from transfer.prediction.model import Prediction

SHOWN = 120  # photographs on a contact sheet, at most
_QUALITY = 90  # of JPEG

Features = NDArray[np.float32]


def count(argument: str) -> int:
    """Return the number of photographs that a command-line argument asks for.

    Raises:
        ArgumentTypeError: it is not a number from 1 on.
    """
    if not (argument.isascii() and argument.isdecimal() and int(argument) > 0):
        raise argparse.ArgumentTypeError(f"it must be a number from 1 on. Received: {printable(argument)}")
    return int(argument)


def sheet_file(argument: str) -> Path:
    """Return the file for a contact sheet that a command-line argument names.

    Raises:
        ArgumentTypeError: it is a folder or not a JPEG by its name, or its folder does not exist.
    """
    path = Path(argument)
    if path.suffix.lower() not in {".jpg", ".jpeg"} or path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"it must name a .jpg in a folder that exists. Received: {printable(argument)}"
        )
    return path


def rank(predictions: Sequence["Prediction"], features: Features, *, number: int) -> list[int]:
    """Choose photographs whose labels would teach the network most, the most important one first.

    The first is the least certain one. Each next one has the largest product of uncertainty and distance to the nearest
    chosen one: farthest-first traversal (Gonzalez, 1985, "Clustering to Minimize the Maximum Intercluster Distance";
    for labels, Sener and Savarese, 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach"),
    weighted by uncertainty. So no copies of one photograph are chosen as long as there are others.

    Args:
        predictions: of the photographs.
        features: their features, shape (photographs, channels).
        number: how many to choose at most.

    Returns:
        Indices of the chosen photographs.
    """
    uncertainties = np.array([uncertainty(prediction) for prediction in predictions])
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    distances = np.ones(len(uncertainties))  # to the nearest chosen one: 1 less the cosine
    left = np.ones(len(uncertainties), bool)
    chosen: list[int] = []
    while len(chosen) < min(number, len(uncertainties)):
        worth = np.where(left, uncertainties * distances, -1)
        [equal] = np.nonzero(worth == worth.max())
        best = int(equal[uncertainties[equal].argmax()])
        chosen.append(best)
        left[best] = False
        distances = np.minimum(distances, np.maximum(1 - directions @ directions[best], 0))
    return chosen


def uncertainty(prediction: "Prediction") -> float:
    """Return one less the margin between the two most probable classes: 0 for certainty, 1 for two equal classes."""
    *_, second, first = sorted(prediction.probabilities.values())
    return 1 - (first - second)


def write_sheet(file: Path, photographs: Sequence[InputPhotograph], predictions: Sequence["Prediction"]) -> None:
    """Write a contact sheet of the first photographs, with their names and predictions, as JPEG.

    A photograph that cannot be read any more is grey.
    """
    pictures = [_thumbnail(photograph) for photograph in photographs[:SHOWN]]
    captions = [
        (printable(photograph.name), f"{printable(prediction.class_name)} {prediction.probability:.0%}")
        for photograph, prediction in zip(photographs[:SHOWN], predictions, strict=False)
    ]
    content = io.BytesIO()
    contact_sheet.draw_captioned(pictures, captions).save(content, "JPEG", quality=_QUALITY)
    files.write_bytes(file, content.getvalue())


def _thumbnail(photograph: InputPhotograph) -> Image.Image:
    try:
        image = decoding.decode(photograph.read())
    except (UnreadablePhoto, DataError, OSError):  # changed since it was predicted
        return Image.new("RGB", (contact_sheet.EDGE, contact_sheet.EDGE), "grey")
    image.thumbnail((contact_sheet.EDGE, contact_sheet.EDGE))
    return image
