"""Models as files: networks saved to the same bytes whenever they are the same, and read back with care."""

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transfer import disk, features, inspection, outputs
from transfer.backend import keras
from transfer.errors import DataError, remake
from transfer.photos import MAX_SIZE, Resizing

_TIMELESS = "1980-01-01@00:00:00"
_SHARED = "shared_object_id"
_CARD = "model.json"
_MAX_REASON = 300  # characters: Keras repeats the whole configuration


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


def save(model: keras.Model, path: Path) -> None:
    """Write a network in Keras's own format, whole, without the time of day and addresses in memory in it.

    Raises:
        DiskError: the disk has no room for it twice, or refuses.
    """
    with disk.room({path.parent: 2 * size(model)}), outputs.whole_file(path) as beside:
        dated = beside.with_name(f"{beside.name}.keras")  # removed by the next to write here, should this be killed
        try:
            model.save(dated)
            with zipfile.ZipFile(dated) as source, zipfile.ZipFile(beside, "w") as target:
                for name in sorted(source.namelist()):
                    stable = _STABLE.get(name, bytes)
                    target.writestr(zipfile.ZipInfo(name), stable(source.read(name)))
        finally:
            dated.unlink(missing_ok=True)


def write(file: Path, network: keras.Model, card: dict[str, Any]) -> None:
    """Write a network and, beside it, its `model.json`, which knows the file by its sha256."""
    save(network, file)
    outputs.write_json(file.with_name(_CARD), {**card, "sha256": outputs.sha256(file)})


def size(model: keras.Model) -> int:
    """About how many bytes a network takes as a file: its weights, and its optimizer's if it is compiled."""
    return bytes_of([*model.weights, *(model.optimizer.variables if model.compiled else [])])


def bytes_of(variables: Iterable[keras.Variable]) -> int:
    """How many bytes the numbers of these variables take."""
    return sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)


def load(path: Path) -> keras.Model:
    """Read a network, not compiled.

    Raises:
        DataError: the file is no network of this project's, whatever else it may be; nothing in it was run.
        OSError: the disk refuses.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. Run `dvc repro` to have it made, or `dvc pull` where a remote has it.")
    try:
        inspection.refuse_what_is_no_network_of_ours(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 (Keras raises nearly anything on a damaged or hostile file)
        disk.reraise(error, path)
        raise DataError(
            f"{path} is not a network this project saved: {_in_a_line(error)}. Rerun the stage that makes it."
        ) from None


def inputs(manifest: Path, recipes: Sequence[features.Recipe], **files: Path) -> dict[str, Any]:
    """What a network follows from besides params: photographs and other files by sha256, features by recipe."""
    return {
        "photographs": outputs.sha256(manifest),
        "features": [features.digest(recipe) for recipe in recipes],
        **{name: outputs.sha256(file) for name, file in files.items()},
    }


def card(
    classes: Sequence[str],
    recipe: features.Recipe,
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


def card_of(file: Path, *, cure: str) -> Card:
    """Read the `model.json` that lies beside a network, and compare the two.

    Args:
        file: the network's.
        cure: what the user is to do where they are not what one stage made, as a sentence.

    Raises:
        DataError: the card is damaged, see `read_card`, or belongs to another network.
        FileNotFoundError: one of the two is missing.
    """
    found = read_card(file.with_name(_CARD), cure=cure)
    received = outputs.sha256(file)
    if received != found.sha256:
        raise DataError(
            f"{file} must be the network that its {_CARD} was made with, whose sha256 begins with {found.sha256[:12]}. "
            f"Received: {received[:12]}. {cure}"
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


def probabilities(network: Callable[..., Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """The probability of each class; a single output is the probability of the second of two.

    Args:
        network: a network, or a function that is called like one.
        rows: what it takes, one for each photograph.

    Returns:
        Array of shape (photographs, classes), from 0 to 1; rows sum to one.

    Raises:
        DataError: the network gives no finite numbers.
    """
    given = keras.ops.convert_to_numpy(network(rows, training=False)).astype(np.float64)
    if not np.isfinite(given).all():
        raise DataError(
            f"The network must give finite probabilities. Received: NaN. {remake('train_head', 'fine_tune')}"
        )
    if given.shape[1] == 1:
        return np.hstack([1 - given, given])
    whole: NDArray[np.float64] = given / given.sum(axis=1, keepdims=True)
    return whole


def _in_a_line(error: Exception) -> str:
    """What was raised, short and without what a terminal would obey."""
    return "".join(filter(str.isprintable, " ".join(str(error).split())))[:_MAX_REASON].rstrip(".")


def _undated(metadata: bytes) -> bytes:
    content: dict[str, Any] = json.loads(metadata)
    return json.dumps({**content, "date_saved": _TIMELESS}).encode()


def _numbered(config: bytes) -> bytes:
    """Name shared objects by the order in which they come; Keras names them by where they lay in memory."""
    numbers: dict[int, int] = {}

    def numbered(value: dict[str, Any]) -> dict[str, Any]:
        address = value.get(_SHARED)
        return value if address is None else {**value, _SHARED: numbers.setdefault(address, len(numbers) + 1)}

    return json.dumps(json.loads(config, object_hook=numbered)).encode()


_STABLE = {"metadata.json": _undated, "config.json": _numbered}
