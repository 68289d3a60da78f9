import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfer.features import store
from transfer.runtime.errors import DataError, rerun_hint

RECIPE = store.recipe_digest({"version": 1})
PHOTO = "ab" * 32


def row(seed: int = 0) -> store.Row:
    """Return a row of random activations."""
    random = np.random.default_rng(seed)
    return store.to_row(random.normal(0, 9, (4, 4, 8)).clip(0), random.normal(0, 9, (2, 2, 8)).clip(0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a row and return its path."""
    path = tmp_path / f"{PHOTO}.npz"
    store.write_row(path, row(), recipe=RECIPE, photo=PHOTO)
    return path


def test_a_row_is_read_as_it_was_written(path: Path) -> None:
    """The activations read are equal, bit by bit, to those written."""
    for part, expected in zip(store.read_row(path, recipe=RECIPE, photo=PHOTO), row(), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_equal_rows_are_equal_files(path: Path, tmp_path: Path) -> None:
    """A row written twice gives the same bytes, so that DVC stores it once."""
    store.write_row(tmp_path / "again.npz", row(), recipe=RECIPE, photo=PHOTO)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_activations_are_clipped_to_the_range_of_float16() -> None:
    """An activation beyond the range of float16 becomes its largest number, not infinity."""
    huge = store.to_row(np.full((1, 1, 1), 1e6, np.float32), np.zeros((1, 1, 1), np.float32))
    assert huge.boundary[0, 0, 0] == np.finfo(np.float16).max


@pytest.mark.reliability("tampered", "a row of features truncated or changed", "detected, wherever it was changed")
def test_every_damaged_byte_is_detected(path: Path) -> None:
    """A row that is truncated or changed anywhere is damaged, or is read as it was written."""
    content = path.read_bytes()
    undetected = 0
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            parts = store.read_row(path, recipe=RECIPE, photo=PHOTO)
        except store.DamagedRow:
            continue
        undetected += any(not np.array_equal(part, good) for part, good in zip(parts, row(), strict=True))
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(store.DamagedRow):
            store.read_row(path, recipe=RECIPE, photo=PHOTO)
    assert undetected == 0


@pytest.mark.reliability("tampered", "a row of features of other weights, or of another photograph", "rejected")
def test_a_row_of_another_photograph_or_recipe_is_rejected(path: Path) -> None:
    """A row must have been written for the photograph and recipe that it is read for."""
    with pytest.raises(store.DamagedRow, match="another"):
        store.read_row(path, recipe=RECIPE, photo="cd" * 32)
    with pytest.raises(store.DamagedRow, match="another"):
        store.read_row(path, recipe=store.recipe_digest({"version": 2}), photo=PHOTO)


class Hostile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.reliability(
    "tampered", "a row of pickled objects instead of features", "rejected in training, and not executed"
)
@pytest.mark.parametrize("part", ["mark", "boundary"])
def test_pickled_objects_are_not_loaded(path: Path, tmp_path: Path, part: str) -> None:
    """A row with Python objects is damaged; their code is not executed."""
    parts: dict[str, Any] = {**row()._asdict(), "mark": store._mark(RECIPE, PHOTO)}
    np.savez(path, **{**parts, part: np.array([Hostile(tmp_path / "ran")], object)})
    with pytest.raises(store.DamagedRow):
        store.read_row(path, recipe=RECIPE, photo=PHOTO)
    assert not (tmp_path / "ran").exists()


def test_a_digest_does_not_depend_on_the_order_of_entries() -> None:
    """Recipes with the same entries in another order have one digest; recipes with other values have others."""
    assert store.recipe_digest({"a": 1, "b": 2.0}) == store.recipe_digest({"b": 2.0, "a": 1})
    assert store.recipe_digest({"a": 1}) != store.recipe_digest({"a": 2})


def test_recipes_are_read_in_the_order_of_views(tmp_path: Path) -> None:
    """Eleven views are read as 0 to 10, not as 0, 1, 10, 2."""
    recipes = [{"view": view} for view in range(11)]
    store.write_recipes(tmp_path, dict(enumerate(recipes)))
    assert store.read_recipes(tmp_path) == recipes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two views of a photograph as the stage does; return their folder."""
    recipes = [{"view": view, "image_size": 64} for view in range(2)]
    store.write_recipes(tmp_path, dict(enumerate(recipes)))
    for view, recipe in enumerate(recipes):
        path = tmp_path / str(view) / f"{PHOTO}.npz"
        store.write_row(path, row(), recipe=store.recipe_digest(recipe), photo=PHOTO)
    return tmp_path


@pytest.mark.reliability(
    "tampered", "a recipe.json that does not match the rows in its folder", "65 and the command to run"
)
@pytest.mark.parametrize("view", ["0", "1"])
def test_a_recipe_that_does_not_match_its_rows_is_an_error(folder: Path, view: str) -> None:
    """A changed recipe.json is detected before training, as the marks of the rows have the digest of the original."""
    assert len(store.read_recipes(folder)) == 2
    recipe = json.loads((folder / view / "recipe.json").read_text())
    (folder / view / "recipe.json").write_text(json.dumps({**recipe, "image_size": 128}))
    with pytest.raises(DataError, match="made by another recipe") as caught:
        store.read_recipes(folder)
    assert str(caught.value).endswith(rerun_hint("extract_features"))


@pytest.mark.reliability("tampered", "a damaged recipe.json", "65 and the command to run")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_recipe_is_an_error_with_the_command_to_run(folder: Path, content: bytes) -> None:
    """For a recipe.json that is not a JSON object the message has its path and the command."""
    (folder / "1/recipe.json").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"1/recipe\.json must be .* object\. Received: {len(content)} bytes"
    ) as caught:
        store.read_recipes(folder)
    assert str(caught.value).endswith(rerun_hint("extract_features"))


def test_a_folder_without_views_is_an_error(tmp_path: Path) -> None:
    """Features must have at least view 0."""
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="must contain a folder for each view"):
        store.read_recipes(tmp_path)
