"""Thresholds: when the answer to a photograph is "not sure" or "none of these" instead of a class.

A class is plausible from the probability that all but a few validation photographs of this class have; if another class
than the most probable one is plausible, too, the answer is "not sure". That is conformal prediction: Vovk, Gammerman
and Shafer, 2005, "Algorithmic Learning in a Random World", by class as in its chapter 4 (Mondrian); Angelopoulos and
Bates, 2023, "Conformal Prediction: A Gentle Introduction". A photograph that is farther from the training photographs
than nearly all validation photographs is none of the classes: Sun and others, 2022, "Out-of-Distribution Detection with
Deep Nearest Neighbors".
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

NOT_SURE, NONE_OF_THESE = "not sure", "none of these"
NEIGHBOURS = 10  # the distance is that to the tenth nearest one; from 5 to 50 nothing changes

Labels = NDArray[np.intp]  # class numbers, shape (photographs,)
Floats = NDArray[np.float64]


class Thresholds(BaseModel):
    """The content of `thresholds` in `model.json`.

    Attributes:
        coverage: fraction of the photographs whose own class is meant to be plausible.
        calibrated: whether this holds for each class or, with few validation photographs of a class, for all together;
            "none" if these are too few as well, so that the answer is never "not sure".
        plausible: by class, the probability from which the class is plausible.
        lost: fraction of the photographs of all classes that are meant to be answered "none of these".
        distance: from which a photograph is none of the classes; None with too few validation photographs.
        neighbours: which nearest training photograph the distance is measured to.
        rows: SHA-256 of the file of the training photographs' rows, see `neighbours`.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    coverage: float = Field(gt=0, lt=1)
    calibrated: Literal["classes", "together", "none"]
    plausible: dict[str, float]
    lost: float = Field(gt=0, lt=1)
    distance: float | None = Field(ge=0)
    neighbours: int = Field(ge=1, le=1000)
    rows: str = Field(pattern="^[0-9a-f]{64}$")


def plausible_classes(probabilities: Floats, least: Floats) -> NDArray[np.bool_]:
    """Return which classes are plausible for each photograph; the most probable one always is.

    Args:
        probabilities: shape (photographs, classes).
        least: the probability from which each class is plausible, shape (classes,).
    """
    plausible: NDArray[np.bool_] = probabilities >= least
    plausible[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return plausible


def answers(probabilities: Floats, distances: Floats, thresholds: Thresholds, classes: list[str]) -> list[str]:
    """Return the answer to each photograph: a class, `NOT_SURE` or `NONE_OF_THESE`.

    Args:
        probabilities: shape (photographs, classes).
        distances: to the training photographs, shape (photographs,).
        thresholds: of the network.
        classes: class names, in the order of their numbers.
    """
    sure = plausible_classes(probabilities, least_probabilities(thresholds, classes)).sum(axis=1) == 1
    farthest = np.inf if thresholds.distance is None else thresholds.distance
    return [
        NONE_OF_THESE if distance > farthest else classes[best] if is_sure else NOT_SURE
        for best, is_sure, distance in zip(probabilities.argmax(axis=1), sure, distances, strict=True)
    ]


def least_probabilities(thresholds: Thresholds, classes: list[str]) -> Floats:
    """Return the probability from which each class is plausible, shape (classes,); more than 1 if none but the best."""
    if thresholds.calibrated == "none":
        return np.full(len(classes), np.inf)
    return np.array([thresholds.plausible[name] for name in classes])


def fit(
    labels: Labels,
    probabilities: Floats,
    distances: Floats,
    classes: list[str],
    *,
    coverage: float,
    lost: float,
    rows: str,
) -> Thresholds:
    """Return the thresholds that follow from the validation split.

    Args:
        labels: class numbers of the validation photographs.
        probabilities: of these photographs, shape (photographs, classes).
        distances: to the training photographs, shape (photographs,).
        classes: class names, in the order of their numbers.
        coverage: see `Thresholds`; needs 1 / (1 - coverage) - 1 validation photographs of each class, or in all.
        lost: likewise.
        rows: SHA-256 of the file of the training photographs' rows.
    """
    of_true_class = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
    by_class = [_quantile(of_true_class[labels == number], 1 - coverage) for number in range(len(classes))]
    together = _quantile(of_true_class, 1 - coverage)
    least = by_class if None not in by_class else [together] * len(classes)
    calibrated: Literal["classes", "together", "none"] = "classes" if None not in by_class else "together"
    farthest = _quantile(-distances, lost)
    return Thresholds(
        coverage=coverage,
        calibrated="none" if None in least else calibrated,
        plausible={name: value for name, value in zip(classes, least, strict=True) if value is not None},
        lost=lost,
        distance=None if farthest is None else -farthest,
        neighbours=NEIGHBOURS,
        rows=rows,
    )


def _quantile(values: Floats, fraction: float) -> float | None:
    """Return the value that a further, exchangeable one is below with a probability of at most `fraction`.

    Returns:
        None if there are too few values.
    """
    rank = int(fraction * (len(values) + 1) + 1e-9)  # 0.01 * 200 is a little less than 2 in binary
    return float(np.sort(values)[rank - 1]) if rank else None
