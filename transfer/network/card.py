"""Card: what a user of a network must know, in the `model.json` beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transfer.images.decoding import MAX_SIZE, Resizing
from transfer.runtime import files
from transfer.runtime.errors import DataError

FILE_NAME = "model.json"


class Card(BaseModel):
    """What a user of a network must know: the content of `model.json`."""

    model_config = ConfigDict(frozen=True, strict=True)

    sha256: str = Field(description="of the network's file")
    classes: list[str] = Field(min_length=2)
    image_size: int = Field(ge=1, le=MAX_SIZE)
    resizing: Resizing
    trained_on: dict[str, Any]
    params: dict[str, Any]
    scores: dict[str, float]


def describe(
    classes: Sequence[str],
    recipe: dict[str, Any],
    trained_on: dict[str, Any],
    settings: dict[str, Any],
    scores: dict[str, float],
) -> dict[str, Any]:
    """The content of a `model.json` to be written, as `Card` describes it, but for the network's sha256."""
    return {
        "classes": list(classes),
        "image_size": recipe["image_size"],
        "resizing": recipe["resizing"],
        "trained_on": trained_on,
        "params": settings,
        "scores": scores,
    }


def verified_card(file: Path, *, cure: str) -> Card:
    """Read the `model.json` that lies beside a network, and compare the two.

    Args:
        file: the network's.
        cure: what the user is to do where they are not what one stage made, as a sentence.

    Raises:
        DataError: the card is damaged, see `read_card`, or belongs to another network.
        FileNotFoundError: one of the two is missing.
    """
    found = read_card(file.with_name(FILE_NAME), cure=cure)
    received = files.sha256(file)
    if received != found.sha256:
        raise DataError(
            f"{file} must be the network that its {FILE_NAME} was made with, whose sha256 begins with "
            f"{found.sha256[:12]}. Received: {received[:12]}. {cure}"
        )
    return found


def read_card(path: Path, *, cure: str) -> Card:
    """Read a `model.json`.

    Args:
        path: the file.
        cure: what the user is to do where it is damaged, as a sentence.

    Raises:
        DataError: it is no JSON, lacks something or holds something else than it should.
        FileNotFoundError: there is none.
    """
    content = path.read_bytes()
    try:
        return Card.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} must be JSON with {', '.join(Card.model_fields)}. Received: {len(content):,} bytes, "
            f"{place}: {first['msg']}. {cure}"
        ) from None
