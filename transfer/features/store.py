"""Features: a photograph's activations at the boundary and at the base's end, one row a photograph and view.

A row is a file, `<view>/<sha256>.npz`, and follows from the photograph's bytes and its view's recipe alone.
"""

import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.runtime import disk, files
from transfer.runtime.errors import DataError, rerun_hint

RECIPE_VERSION = 1  # to be raised when the same recipe would give other activations
_MAX_BYTES = 1 << 28  # far more than a photograph of 1024 pixels an edge has at any boundary
_COMPRESSION = 1  # most activations are zero: the least effort takes nearly two thirds off
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_REMAKE = rerun_hint("extract_features")

Activation = NDArray[np.float16]
Recipe = dict[str, Any]


class Row(NamedTuple):
    """Activations of one view of one photograph, each of shape (height, width, channels)."""

    boundary: Activation
    pooled: Activation


class DamagedRow(Exception):
    """A file is not the row its place says it is; the text is the reason."""


def recipe_digest(recipe: Recipe) -> str:
    """The name of a recipe: 64 hexadecimal digits that differ when anything in it does."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def write_recipes(folder: Path, recipes: Iterable[Recipe]) -> None:
    """Write `<view>/recipe.json` below `folder` for each view, from view 0 on."""
    for view, recipe in enumerate(recipes):
        files.write_json(folder / str(view) / "recipe.json", recipe)


def read_recipes(folder: Path) -> list[Recipe]:
    """Read the recipe of every view below `folder`, in order.

    Raises:
        DataError: there is no view, a recipe is damaged, or it is not the one by which the rows beside it were made.
    """
    views = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), key=lambda path: int(path.name)
    )
    if not views:
        raise DataError(f"{folder} must hold a folder a view. Received: none. {_REMAKE}")
    recipes = [read_recipe(view / "recipe.json") for view in views]
    for view, recipe in zip(views, recipes, strict=True):
        _refuse_rows_of_another_recipe(view, recipe_digest(recipe))
    return recipes


def read_recipe(path: Path) -> Recipe:
    """Read a `recipe.json`.

    Raises:
        DataError: it is no JSON object.
    """
    content = path.read_bytes()
    try:
        recipe = json.loads(content)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise DataError(f"{path} must be a JSON object. Received: {len(content):,} bytes of something else. {_REMAKE}")
    return recipe


def _refuse_rows_of_another_recipe(view: Path, recipe: str) -> None:
    """Look at one row, which stands for all: a stage writes the recipe and its rows together."""
    row = next(view.glob("*.npz"), None)
    try:
        if row:
            read_parts(row, (), recipe=recipe, photo=row.stem)
    except DamagedRow as error:
        raise DataError(f"{error}. {_REMAKE}") from None


def to_row(boundary: NDArray[np.float32], pooled: NDArray[np.float32]) -> Row:
    """Round activations to float16, the largest of which stands for everything above it."""
    return Row(*(np.clip(part, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16) for part in (boundary, pooled)))


def write_row(path: Path, row: Row, *, recipe: str, photo: str) -> None:
    """Write a row whole, marked with its recipe's digest and its photograph's sha256.

    It is not forced to the disk: `read_row` tells a row that a power cut left incomplete.

    Raises:
        DiskError: the disk refuses.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # a shared memo has writers on many machines
    try:
        with (
            disk.space_for({path.parent: 0}),
            zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive,
        ):
            for name, part in {**row._asdict(), "mark": _mark(recipe, photo)}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, part, allow_pickle=False)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_row(path: Path, *, recipe: str, photo: str) -> Row:
    """Read a row; see `read_parts`."""
    return Row(*read_parts(path, Row._fields, recipe=recipe, photo=photo))


def read_parts(path: Path, parts: Iterable[str], *, recipe: str, photo: str) -> list[Activation]:
    """Read some of a row's activations and check that they are whole and of the row asked for.

    Raises:
        DamagedRow: it is cut short, changed, of another recipe or photograph, or no row at all.
        OSError: there is none, or it cannot be read.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            mark, *activations = (_array(archive, name) for name in ("mark", *parts))
    except Exception as error:  # noqa: BLE001 (zipfile, zlib and NumPy raise nearly anything on damaged bytes)
        raise DamagedRow(f"{path} is damaged: {error}") from None
    if not np.array_equal(mark, _mark(recipe, photo)):
        raise DamagedRow(f"{path} holds another photograph's row, or one made by another recipe")
    if any(part.dtype != np.float16 or part.ndim != 3 for part in activations):
        raise DamagedRow(f"{path} holds no float16 activations")
    return activations


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array; the whole member first, so that its checksum is compared before its header is believed."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > _MAX_BYTES:
        raise ValueError(f"{name} must have at most {_MAX_BYTES:,} bytes. Received: {member.file_size:,}")
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    return array


def _mark(recipe: str, photo: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(f"{recipe} {photo}".encode()).digest(), np.uint8)


def lineage(manifest: Path, recipes: Sequence[Recipe], **others: Path) -> dict[str, Any]:
    """What a network follows from besides params: photographs and other files by sha256, features by recipe."""
    return {
        "photographs": files.sha256(manifest),
        "features": [recipe_digest(recipe) for recipe in recipes],
        **{name: files.sha256(file) for name, file in others.items()},
    }
