"""Models as files: networks saved to the same bytes whenever they are the same, and read back with care."""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer import features, outputs
from transfer.backend import keras
from transfer.errors import DataError

_TIMELESS = "1980-01-01@00:00:00"
_SHARED = "shared_object_id"


def save(model: keras.Model, path: Path) -> None:
    """Write a network in Keras's own format, whole, without the time of day and addresses in memory in it."""
    with outputs.whole_file(path) as beside, tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        dated = Path(scratch) / "dated.keras"
        model.save(dated)
        with zipfile.ZipFile(dated) as source, zipfile.ZipFile(beside, "w") as target:
            for name in sorted(source.namelist()):
                stable = _STABLE.get(name, bytes)
                target.writestr(zipfile.ZipInfo(name), stable(source.read(name)))


def load(path: Path) -> keras.Model:
    """Read a network, not compiled.

    Raises:
        DataError: the file is no network, or needs code of its own to be read.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. Run `dvc repro` to have it made.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 (Keras raises nearly anything on a damaged or hostile file)
        raise DataError(
            f"{path} is not a network this project saved: {error}. Rerun the stage that makes it."
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
    """What a user of a network must know: the content of model.json."""
    return {
        "classes": list(classes),
        "image_size": recipe["image_size"],
        "resizing": recipe["resizing"],
        "trained_on": trained_on,
        "params": settings,
        "scores": scores,
    }


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
