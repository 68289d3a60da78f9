"""Card: the `model.json` of a network, with its classes, image size, lineage, parameters and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from transfer.images.decoding import MAX_SIZE, Resizing
from transfer.network.thresholds import Thresholds
from transfer.runtime import files
from transfer.runtime.errors import DataError

FILE_NAME = "model.json"

ExportFormat = Literal["onnx", "litert", "litert_int8"]
EXPORTED_FILES: dict[ExportFormat, str] = {  # by format
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "litert_int8": "model_int8.tflite",
}


class Card(BaseModel):
    """The content of `model.json`: what a user of a network must know."""

    model_config = ConfigDict(frozen=True, strict=True)

    sha256: str = Field(description="of the network's file")
    classes: list[str] = Field(min_length=2)
    image_size: int = Field(ge=1, le=MAX_SIZE)
    resizing: Resizing
    temperature: float = Field(1.0, gt=0, description="by which the network divides its log odds")
    thresholds: Thresholds | None = Field(None, description="of other answers than classes")
    mirror: bool = Field(
        default=False, description="whether it averages the log odds of a photograph and its mirror image"
    )
    precision: str = Field("float32", description="number format of the activations that the network was trained on")
    trained_on: dict[str, Any]
    params: dict[str, Any]
    scores: dict[str, float]

    @model_validator(mode="after")
    def _thresholds_are_those_of_the_classes(self) -> "Card":
        fitted = self.thresholds
        if fitted and fitted.calibrated != "none" and fitted.plausible.keys() != {*self.classes}:
            raise ValueError("`thresholds.plausible` must have exactly the classes. Received: others")
        return self


def describe(
    classes: Sequence[str],
    recipe: dict[str, Any],
    trained_on: dict[str, Any],
    settings: dict[str, Any],
    scores: dict[str, float],
    *,
    temperature: float = 1.0,
    thresholds: Thresholds | None = None,
    mirror: bool = False,
) -> dict[str, Any]:
    """Return the content of a `model.json` except the network's SHA-256, which `saving.write` adds.

    Args:
        classes: class names in the order of their numbers.
        recipe: of the features: `image_size` and `resizing` of the photographs that the network takes, and `precision`.
        trained_on: SHA-256 of the inputs of training.
        settings: the stage's parameters.
        scores: of the training run.
        temperature: by which the network divides its log odds, see `calibration.choose_temperature`.
        thresholds: of other answers than classes; None if the answer is always a class.
        mirror: whether the network averages the log odds of a photograph and its mirror image, see `mirroring`.
    """
    return {
        "classes": list(classes),
        "image_size": recipe["image_size"],
        "resizing": recipe["resizing"],
        "temperature": temperature,
        **({"thresholds": thresholds.model_dump()} if thresholds else {}),
        **({"mirror": True} if mirror else {}),
        "precision": recipe.get("precision", "float32"),
        "trained_on": trained_on,
        "params": settings,
        "scores": scores,
    }


def describe_exports(card: Card, hashes: Mapping[ExportFormat, str]) -> dict[str, Any]:
    """Return the content of the `model.json` beside a network's exported files, which know no answers but classes.

    Args:
        card: of the network itself, whose SHA-256 it keeps.
        hashes: SHA-256 of the exported files by their format.
    """
    exported = {form: {"file": EXPORTED_FILES[form], "sha256": sha256} for form, sha256 in hashes.items()}
    excluded = {"thresholds"} if card.mirror else {"thresholds", "mirror"}
    return {**card.model_dump(exclude=excluded), "exported": exported}


def verified_card(file: Path, *, hint: str) -> Card:
    """Read the `model.json` in a network's folder and check that it belongs to the network.

    Args:
        file: the network's file.
        hint: a sentence for error messages: what the user should do.

    Raises:
        DataError: the card is damaged, see `read_card`, or belongs to another network.
        FileNotFoundError: one of the two files is missing.
    """
    card = read_card(file.with_name(FILE_NAME), hint=hint)
    received = files.sha256(file)
    if received != card.sha256:
        raise DataError(
            f"{file} must be the network that its {FILE_NAME} was made with, whose sha256 begins with "
            f"{card.sha256[:12]}. Received: {received[:12]}. {hint}"
        )
    return card


def read_card(path: Path, *, hint: str) -> Card:
    """Read a `model.json`.

    Args:
        path: the file.
        hint: a sentence for error messages: what the user should do.

    Raises:
        DataError: it is not JSON, or a field is missing or has a wrong value.
        FileNotFoundError: there is no such file.
    """
    content = path.read_bytes()
    try:
        return Card.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} must be JSON with {', '.join(Card.model_fields)}. Received: {len(content):,} bytes, "
            f"{place}: {first['msg']}. {hint}"
        ) from None
