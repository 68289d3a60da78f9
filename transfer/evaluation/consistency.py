"""Consistency: check that networks, features and photographs belong together before they are scored."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation.scores import Probabilities
from transfer.images import manifest
from transfer.network.card import Card
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training.history import History

# The largest allowed difference in log odds between predictions from pixels, in float32, and from cached activations,
# which differ because of the precision in which these were computed and because they are rounded to float16. Measured
# with ImageNet's weights: in float32 0.008 at most, with 64, 180 and 224 pixels and two heads; in bfloat16 0.113 at
# most, with 460 predictions of test photographs at 224 pixels. Wrongly ordered channels or another resizing cause a
# difference of 0.04 with an untrained network, and of 4 to 30 with a trained one.
TOLERANCES = {"float32": 0.05, "bfloat16": 0.3}
MIN_PROBABILITY = (
    1e-5  # probabilities are clipped to this distance from 0 and 1: float32 has no more digits for log odds
)


class TrainedNetwork(NamedTuple):
    """A network as its stage saved it: the network's file, and the contents of `model.json` and `history.csv`."""

    file: Path
    card: Card
    history: History


def check_classes(photographs: Iterable[manifest.Entry], classes: Sequence[str]) -> None:
    """Check that every class has test photographs.

    Args:
        photographs: the test photographs.
        classes: the class names of all splits.

    Raises:
        DataError: a class has no test photograph; the message names it.
    """
    missing = sorted(set(classes) - {photograph.class_name for photograph in photographs})
    if missing:
        raise DataError(
            f"The test split must have photographs of each class. Received: none of {', '.join(missing)}. "
            "Raise `subsample.photographs` or `split.test`."
        )


def check_provenance(stage: str, trained: TrainedNetwork, classes: Sequence[str], lineage: Mapping[str, Any]) -> None:
    """Check that a network was trained on the current split and features; otherwise it may know test photographs.

    Args:
        stage: the stage that trained the network.
        trained: the network, whose card has the lineage at training time.
        classes: the current class names, in the order of their numbers.
        lineage: the current hashes of photographs, features and other inputs, by name.

    Raises:
        DataError: an input has changed since training; the message names it.
    """
    received = {"classes": trained.card.classes, **trained.card.trained_on}
    changed = [name for name, value in {"classes": list(classes), **lineage}.items() if received.get(name) != value]
    if changed:
        raise DataError(
            f"{trained.file} must be trained on the current photographs and features. Received: a network trained on "
            f"other {' and '.join(changed).replace('_', ' ')}. Run `dvc repro {stage}`."
        )


def check_agreement(
    photographs: Sequence[manifest.Entry],
    from_pixels: Iterable[Probabilities],
    from_cache: Probabilities,
    trained: TrainedNetwork,
    *,
    precision: str,
) -> None:
    """Check that a network predicts the same from pixels and from cached activations, within `TOLERANCES`.

    Args:
        photographs: the photographs to compare.
        from_pixels: for each photograph, the prediction from its pixels, shape (1, classes).
        from_cache: the predictions from cached activations, shape (photographs, classes).
        trained: the network; differences in log odds grow as its temperature falls.
        precision: of the cached activations.

    Raises:
        DataError: the predictions for a photograph differ; the message names the first one.
    """
    tolerance = TOLERANCES[precision] / trained.card.temperature
    for photograph, [direct], cached in zip(photographs, from_pixels, from_cache, strict=True):
        if np.abs(log_odds(direct) - log_odds(cached)).max() > tolerance:
            raise DataError(
                f"{trained.file} must predict the same for {photograph.path} from its pixels and from its cached "
                f"activations, up to rounding. Received: {_listed(direct)} from pixels, {_listed(cached)} from the "
                "cache. The network or the cache is not the output of its stage. "
                f"{rerun_hint('extract_features', 'fine_tune')}"
            )


def log_odds(probabilities: Probabilities, *, least: float = MIN_PROBABILITY) -> Probabilities:
    """Return the log odds of probabilities, which are clipped to a distance of `least` from 0 and 1."""
    clipped = probabilities.clip(least, 1 - least)
    odds: Probabilities = np.log(clipped) - np.log1p(-clipped)
    return odds


def _listed(probabilities: Probabilities) -> str:
    return " / ".join(f"{probability:.4f}" for probability in probabilities)
