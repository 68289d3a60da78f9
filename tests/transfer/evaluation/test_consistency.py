from pathlib import Path

import numpy as np
import pytest

from transfer.evaluation import consistency
from transfer.evaluation.consistency import TrainedNetwork
from transfer.images import manifest
from transfer.network.card import Card
from transfer.runtime.errors import DataError, rerun_hint

CAT = manifest.Entry("photos/cat/1.jpg", "cat", "ab" * 32, 10, 10, "test")
LINEAGE = {"photographs": "cd" * 32, "features": ["ef" * 32]}


def trained(**changes: object) -> TrainedNetwork:
    """A network trained on `LINEAGE`, with some of its lineage changed."""
    card = Card(
        sha256="12" * 32,
        classes=["cat", "dog"],
        image_size=32,
        resizing="crop",
        trained_on={**LINEAGE, **changes},
        params={},
        scores={},
    )
    return TrainedNetwork(Path("artifacts/train_head/head.keras"), card, [])


def test_a_class_without_test_photographs_is_refused() -> None:
    """Every class needs test photographs; the message names the class that has none."""
    with pytest.raises(DataError, match=r"none of dog\. Raise `subsample\.photographs` or `split\.test`"):
        consistency.check_classes([CAT], ["cat", "dog"])
    consistency.check_classes([CAT], ["cat"])


def test_a_network_trained_on_the_current_inputs_is_accepted() -> None:
    """The same classes and lineage raise nothing; so does a card that has further hashes."""
    consistency.check_provenance("train_head", trained(), ["cat", "dog"], LINEAGE)
    consistency.check_provenance("fine_tune", trained(head="34" * 32), ["cat", "dog"], LINEAGE)


@pytest.mark.parametrize(
    ("changes", "classes", "reason"),
    [
        ({"photographs": "00" * 32}, ["cat", "dog"], "other photographs"),
        ({"features": []}, ["cat", "dog"], "other features"),
        ({}, ["dog", "cat"], "other classes"),
        ({"features": [], "photographs": None}, ["cat", "dog"], "other photographs and features"),
    ],
)
def test_a_network_trained_on_other_inputs_is_refused(
    changes: dict[str, object], classes: list[str], reason: str
) -> None:
    """The message names the network's file, all changed inputs and the stage to run."""
    with pytest.raises(DataError, match=rf"^artifacts/train_head/head\.keras .* {reason}\. Run `dvc repro train_head`"):
        consistency.check_provenance("train_head", trained(**changes), classes, LINEAGE)


@pytest.mark.parametrize(
    ("precision", "cached", "agree"),
    [
        ("float32", 0.51, True),
        ("float32", 0.515, False),
        ("float32", 0.49, True),
        ("float32", 0.485, False),
        ("bfloat16", 0.57, True),
        ("bfloat16", 0.58, False),
    ],
)
def test_rounding_is_no_disagreement(precision: str, cached: float, agree: bool) -> None:  # noqa: FBT001 - of the test
    """Near one half, probabilities may differ by a hundredth, and by seven with activations in bfloat16."""
    from_pixels, from_cache = iter([np.array([[0.5, 0.5]])]), np.array([[1 - cached, cached]])
    if agree:
        consistency.check_agreement([CAT], from_pixels, from_cache, trained(), precision=precision)
    else:
        with pytest.raises(DataError, match=r"0\.5000 / 0\.5000 from pixels") as refusal:
            consistency.check_agreement([CAT], from_pixels, from_cache, trained(), precision=precision)
        assert str(refusal.value).endswith(rerun_hint("extract_features", "fine_tune"))


def test_probabilities_near_one_agree_though_their_log_odds_differ() -> None:
    """Beyond 0.99999 float32 has too few digits to compare log odds."""
    from_pixels, from_cache = iter([np.array([[1e-9, 1 - 1e-9]])]), np.array([[1e-6, 1 - 1e-6]])
    consistency.check_agreement([CAT], from_pixels, from_cache, trained(), precision="float32")


def test_differences_in_log_odds_grow_as_the_temperature_falls() -> None:
    """A network whose log odds are divided by one half may differ twice as much."""
    sharp = trained()._replace(card=trained().card.model_copy(update={"temperature": 0.5}))
    from_pixels, from_cache = iter([np.array([[0.5, 0.5]])]), np.array([[0.48, 0.52]])
    consistency.check_agreement([CAT], from_pixels, from_cache, sharp, precision="float32")
