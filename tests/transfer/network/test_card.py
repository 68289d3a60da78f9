import json
from pathlib import Path
from typing import Any

import pytest

from transfer.network import card, saving
from transfer.network.backend import keras
from transfer.network.thresholds import Thresholds
from transfer.runtime import files
from transfer.runtime.errors import DataError

CARD: dict[str, Any] = {
    "sha256": "cd" * 32,
    "classes": ["cat", "dog"],
    "image_size": 32,
    "resizing": "crop",
    "temperature": 1.5,
    "thresholds": {
        "coverage": 0.99,
        "calibrated": "classes",
        "plausible": {"cat": 0.1, "dog": 0.2},
        "lost": 0.02,
        "distance": 0.75,
        "neighbours": 10,
        "rows": "ef" * 32,
    },
    "mirror": True,
    "precision": "bfloat16",
    "trained_on": {"photographs": "ab" * 32},
    "params": {"seed": 0},
    "scores": {"epochs": 3},
}
WITHOUT_SHA256 = {name: value for name, value in CARD.items() if name != "sha256"}
HINT = "Fetch it again."


def network(value: float = 0.0) -> keras.Model:
    """Build a small network whose weights have one value."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([weights * 0 + value for weights in model.get_weights()])
    return model


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The content that a stage writes to model.json is the content that is read."""
    recipe = {name: CARD[name] for name in ("image_size", "resizing", "precision")}
    limits = Thresholds.model_validate(CARD["thresholds"])
    trained_on, scores = {"photographs": "ab" * 32}, {"epochs": 3}
    content = card.describe(
        ["cat", "dog"], recipe, trained_on, {"seed": 0}, scores, temperature=1.5, thresholds=limits, mirror=True
    )
    files.write_json(tmp_path / "model.json", {"sha256": CARD["sha256"], **content})
    assert card.read_card(tmp_path / "model.json", hint=HINT).model_dump() == CARD


def test_a_card_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Without the newer fields a network computed in float32, at the temperature 1, and answers always."""
    earlier = {name: value for name, value in CARD.items() if name not in ("precision", "temperature", "thresholds")}
    files.write_json(tmp_path / "model.json", earlier)
    read = card.read_card(tmp_path / "model.json", hint=HINT)
    assert (read.precision, read.temperature, read.thresholds) == ("float32", 1, None)


def test_a_network_is_written_with_its_card(tmp_path: Path) -> None:
    """model.json is written to the network's folder, with the network's SHA-256."""
    saving.write(tmp_path / "head.keras", network(), WITHOUT_SHA256)
    verified = card.verified_card(tmp_path / "head.keras", hint=HINT)
    assert verified.model_dump() == {**CARD, "sha256": files.sha256(tmp_path / "head.keras")}


@pytest.mark.reliability(
    "tampered", "a model or a model.json replaced by another one's", "65 with both sha256s and what to do"
)
def test_the_card_of_another_network_is_rejected(tmp_path: Path) -> None:
    """A network of the same shapes but other weights is not the network that the card describes."""
    saving.write(tmp_path / "head.keras", network(), WITHOUT_SHA256)
    saving.save(network(1.0), tmp_path / "head.keras")
    message = r"head\.keras must be the network .* Received: [0-9a-f]{12}\. Fetch it again\."
    with pytest.raises(DataError, match=message):
        card.verified_card(tmp_path / "head.keras", hint=HINT)


@pytest.mark.reliability("tampered", "a damaged model.json", "65 with the wrong field and what to do")
@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"classes": ["cat"]}, "classes"),
        ({"image_size": "32"}, "image_size"),
        ({"image_size": 1_000_000}, "image_size"),
        ({"resizing": "stretch"}, "resizing"),
        ({"thresholds": {**CARD["thresholds"], "plausible": {"cat": 0.1}}}, "the file: .*thresholds.plausible"),
    ],
)
def test_a_card_with_a_wrong_field_is_rejected(tmp_path: Path, change: dict[str, object], received: str) -> None:
    """The error names the file, the wrong field and what to do."""
    (tmp_path / "model.json").write_text(json.dumps({**CARD, **change}))
    message = rf"model\.json must be JSON with sha256, classes.* {received}.*: .*\. Fetch it again\."
    with pytest.raises(DataError, match=message):
        card.read_card(tmp_path / "model.json", hint=HINT)
