"""Feature store: rows of activations at the boundary and at the end of the base, as files.

A row belongs to one view of one photograph and is the file `<view>/<sha256>.npz`; the folder of mirror images is
`mirrored/`. A row's content follows from the photograph's bytes and the view's recipe alone.
"""

import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transfer.features.views import MIRRORED
from transfer.runtime import disk, files
from transfer.runtime.errors import DataError, rerun_hint

RECIPE_VERSION = 1  # to be raised when the same recipe would give other activations
_MAX_BYTES = 1 << 28  # far more than a photograph of 1024 x 1024 pixels has at any boundary
_COMPRESSION_LEVEL = 1  # most activations are zero: the fastest level saves nearly two thirds
_LOCAL_HEADER, _LIST_ENTRY, _LIST_END = 30, 46, 22  # bytes of a zip archive's structures, without names
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_HINT = rerun_hint("extract_features")

Activation = NDArray[np.float16]
Recipe = dict[str, Any]


class Row(NamedTuple):
    """Activations of one view of one photograph, each of shape (height, width, channels)."""

    boundary: Activation
    pooled: Activation


class DamagedRow(Exception):
    """A file is not the row that its path names; the text is the reason."""


def recipe_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe, in hexadecimal; the order of its entries does not matter."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def precision(recipe: Recipe) -> Literal["float32", "bfloat16"]:
    """Return the number format in which a recipe's rows are computed."""
    return "bfloat16" if recipe.get("precision") == "bfloat16" else "float32"


def folder_name(view: int) -> str:
    """Return the name of the folder of a view's rows."""
    return "mirrored" if view == MIRRORED else str(view)


def write_recipes(folder: Path, recipes: Mapping[int, Recipe]) -> None:
    """Write `<view>/recipe.json` below `folder` for each view."""
    for view, recipe in recipes.items():
        files.write_json(folder / folder_name(view) / "recipe.json", recipe)


def read_recipes(folder: Path) -> list[Recipe]:
    """Read the recipe of every view below `folder`, in the order of views.

    Raises:
        DataError: there is no view, a recipe is damaged, or the rows in its folder were made by another one.
    """
    views = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), key=lambda path: int(path.name)
    )
    if not views:
        raise DataError(f"{folder} must contain a folder for each view. Received: none. {_HINT}")
    recipes = [read_recipe(view / "recipe.json") for view in views]
    for view, recipe in zip(views, recipes, strict=True):
        _check_recipe(view, recipe_digest(recipe))
    return recipes


def read_mirrored_recipe(folder: Path) -> Recipe | None:
    """Read the recipe of the mirror images below `folder`; None if there are none.

    Raises:
        DataError: it is damaged, or the rows in its folder were made by another one.
    """
    view = folder / folder_name(MIRRORED)
    if not view.is_dir():
        return None
    recipe = read_recipe(view / "recipe.json")
    _check_recipe(view, recipe_digest(recipe))
    return recipe


def read_recipe(path: Path) -> Recipe:
    """Read a `recipe.json`.

    Raises:
        DataError: it is not a JSON object.
    """
    content = path.read_bytes()
    try:
        recipe = json.loads(content)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict):
        raise DataError(f"{path} must be a JSON object. Received: {len(content):,} bytes of something else. {_HINT}")
    return recipe


def lineage(
    manifest: Path, recipes: Sequence[Recipe], *, mirrored: Recipe | None = None, **input_files: Path
) -> dict[str, Any]:
    """Return what a network was trained on, besides its parameters, for its card.

    Args:
        manifest: the manifest of the photographs.
        recipes: of the features, in the order of views.
        mirrored: of the features of mirror images, if the network follows from them.
        **input_files: other files that the network follows from, by the name that the card gives them.

    Returns:
        The SHA-256 of each file and the digest of each recipe.
    """
    return {
        "photographs": files.sha256(manifest),
        "features": [recipe_digest(recipe) for recipe in recipes],
        **({"mirror_images": recipe_digest(mirrored)} if mirrored else {}),
        **{name: files.sha256(file) for name, file in input_files.items()},
    }


def to_row(boundary: NDArray[np.float32], pooled: NDArray[np.float32]) -> Row:
    """Cast activations to float16, clipped to its range."""
    return Row(*(np.clip(part, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16) for part in (boundary, pooled)))


def write_row(path: Path, row: Row, *, recipe: str, photo: str) -> None:
    """Write a row atomically, with a mark that identifies its recipe and its photograph.

    The bytes are not flushed to the disk: `read_row` detects a row that a power cut left incomplete.

    Args:
        path: the row's file.
        row: the activations.
        recipe: the recipe's digest.
        photo: the photograph's SHA-256.

    Raises:
        DiskError: the disk cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # many machines may write to a shared cache
    try:
        with (
            disk.space_for({path.parent: 0}),
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive,
        ):
            for name, part in {**row._asdict(), "mark": _mark(recipe, photo)}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, part, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_row(path: Path, *, recipe: str, photo: str) -> Row:
    """Read a row that is no link; see `read_parts`.

    Raises:
        NotRegularError: there is a link, a pipe, a device or a folder.
    """
    with files.open_regular(path, follow_links=False) as file:
        return Row(*_parts(path, file.read(), Row._fields, recipe=recipe, photo=photo))


def read_parts(path: Path, parts: Iterable[str], *, recipe: str, photo: str) -> list[Activation]:
    """Read some of a row's activations, after checking that the file is undamaged and the expected row.

    Args:
        path: the row's file.
        parts: names of fields of `Row`.
        recipe: the digest of the recipe that the row must have been made by.
        photo: the SHA-256 of the photograph that the row must belong to.

    Raises:
        DamagedRow: the file is truncated or changed, belongs to another recipe or photograph, or is not a row at all.
        OSError: the file is missing or cannot be read.
    """
    return _parts(path, path.read_bytes(), parts, recipe=recipe, photo=photo)


def _parts(path: Path, content: bytes, parts: Iterable[str], *, recipe: str, photo: str) -> list[Activation]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_extent(archive, len(content))
            mark, *activations = (_read_array(archive, name) for name in ("mark", *parts))
    except Exception as error:  # noqa: BLE001 - zipfile, zlib and NumPy raise nearly anything on damaged bytes
        raise DamagedRow(f"{path} is damaged: {error}") from None
    if not np.array_equal(mark, _mark(recipe, photo)):
        raise DamagedRow(f"{path} belongs to another photograph, or was made by another recipe")
    if any(part.dtype != np.float16 or part.ndim != 3 for part in activations):
        raise DamagedRow(f"{path} has activations that are not three-dimensional arrays of float16")
    return activations


def _check_recipe(view: Path, recipe: str) -> None:
    """Check the recipe of a view against one row; the others follow, as a stage writes rows and recipe together."""
    row = next(view.glob("*.npz"), None)
    try:
        if row:
            read_parts(row, (), recipe=recipe, photo=row.stem)
    except DamagedRow as error:
        raise DataError(f"{error}. {_HINT}") from None


def _check_extent(archive: zipfile.ZipFile, size: int) -> None:
    """Check that a file consists of its members and their list alone; zipfile accepts other bytes around them."""
    end = 0
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if member.header_offset != end:
            break
        end += _LOCAL_HEADER + len(member.filename) + member.compress_size
    size_of_list = sum(_LIST_ENTRY + len(member.filename) for member in archive.infolist())
    expected = end + size_of_list + _LIST_END
    if archive.start_dir != end or size != expected:
        raise ValueError(f"the members must take {expected:,} bytes. Received: {size:,}")


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array; all of the member is read first, so that its checksum is compared before its header is parsed."""
    member = archive.getinfo(f"{name}.npy")
    if member.file_size > _MAX_BYTES:
        raise ValueError(f"{name} must have at most {_MAX_BYTES:,} bytes. Received: {member.file_size:,}")
    file = io.BytesIO(archive.read(member))
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError(f"{name} must end with its values. Received: {member.file_size:,} bytes")
    return array


def _mark(recipe: str, photo: str) -> NDArray[np.uint8]:
    """Return the SHA-256 of a recipe's digest and a photograph's SHA-256, as an array."""
    return np.frombuffer(hashlib.sha256(f"{recipe} {photo}".encode()).digest(), np.uint8)
