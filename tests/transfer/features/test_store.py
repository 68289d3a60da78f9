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
    """A row of made-up activations."""
    random = np.random.default_rng(seed)
    return store.to_row(random.normal(0, 9, (4, 4, 8)).clip(0), random.normal(0, 9, (2, 2, 8)).clip(0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A row's file."""
    path = tmp_path / f"{PHOTO}.npz"
    store.write_row(path, row(), recipe=RECIPE, photo=PHOTO)
    return path


def test_a_row_comes_back_as_it_was(path: Path) -> None:
    """What is written is read, bit by bit."""
    for part, expected in zip(store.read_row(path, recipe=RECIPE, photo=PHOTO), row(), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_row_is_the_same_bytes_each_time(path: Path, tmp_path: Path) -> None:
    """Equal rows are equal files, so that DVC stores them once."""
    store.write_row(tmp_path / "again.npz", row(), recipe=RECIPE, photo=PHOTO)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_float16_holds_what_is_too_large_as_its_largest() -> None:
    """An activation beyond float16's range becomes its largest number, not infinity."""
    huge = store.to_row(np.full((1, 1, 1), 1e6, np.float32), np.zeros((1, 1, 1), np.float32))
    assert huge.boundary[0, 0, 0] == np.finfo(np.float16).max


@pytest.mark.reliability("tampered", "a row of features cut short or changed", "found out, wherever it was changed")
def test_every_damaged_byte_is_noticed(path: Path) -> None:
    """A row that was cut short or changed anywhere is never taken for whole, or reads as it was."""
    whole = path.read_bytes()
    unnoticed = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            parts = store.read_row(path, recipe=RECIPE, photo=PHOTO)
        except store.DamagedRow:
            continue
        unnoticed += any(not np.array_equal(part, good) for part, good in zip(parts, row(), strict=True))
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(store.DamagedRow):
            store.read_row(path, recipe=RECIPE, photo=PHOTO)
    assert unnoticed == 0


@pytest.mark.reliability(
    "tampered", "a row of features of other weights, or of another photograph", "never taken for the row asked for"
)
def test_a_row_of_another_photograph_or_recipe_is_refused(path: Path) -> None:
    """A row cannot stand in another's place."""
    with pytest.raises(store.DamagedRow, match="another"):
        store.read_row(path, recipe=RECIPE, photo="cd" * 32)
    with pytest.raises(store.DamagedRow, match="another"):
        store.read_row(path, recipe=store.recipe_digest({"version": 2}), photo=PHOTO)


class Hostile:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.reliability(
    "tampered", "a row of pickled objects instead of features", "refused in training, and not executed"
)
@pytest.mark.parametrize("part", ["mark", "boundary"])
def test_pickled_objects_are_not_opened(path: Path, tmp_path: Path, part: str) -> None:
    """A row with Python objects in it is refused, not executed."""
    parts: dict[str, Any] = {**row()._asdict(), "mark": store._mark(RECIPE, PHOTO)}
    np.savez(path, **{**parts, part: np.array([Hostile(tmp_path / "ran")], object)})
    with pytest.raises(store.DamagedRow):
        store.read_row(path, recipe=RECIPE, photo=PHOTO)
    assert not (tmp_path / "ran").exists()


def test_a_digest_follows_from_content_alone() -> None:
    """The order of a recipe's entries does not matter; their values do."""
    assert store.recipe_digest({"a": 1, "b": 2.0}) == store.recipe_digest({"b": 2.0, "a": 1})
    assert store.recipe_digest({"a": 1}) != store.recipe_digest({"a": 2})


def test_recipes_come_back_in_order(tmp_path: Path) -> None:
    """Eleven views are read as 0 to 10, not as 0, 1, 10, 2."""
    recipes = [{"view": view} for view in range(11)]
    store.write_recipes(tmp_path, recipes)
    assert store.read_recipes(tmp_path) == recipes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two views of a photograph, as the stage leaves them."""
    recipes = [{"view": view, "image_size": 64} for view in range(2)]
    store.write_recipes(tmp_path, recipes)
    for view, recipe in enumerate(recipes):
        path = tmp_path / str(view) / f"{PHOTO}.npz"
        store.write_row(path, row(), recipe=store.recipe_digest(recipe), photo=PHOTO)
    return tmp_path


@pytest.mark.reliability("tampered", "a recipe.json that does not match the rows beside it", "65 and the cure")
@pytest.mark.parametrize("view", ["0", "1"])
def test_a_recipe_that_its_rows_were_not_made_by_is_refused(folder: Path, view: str) -> None:
    """Another image size written into recipe.json makes no other rows, and is found out before anything is trained."""
    assert len(store.read_recipes(folder)) == 2
    recipe = json.loads((folder / view / "recipe.json").read_text())
    (folder / view / "recipe.json").write_text(json.dumps({**recipe, "image_size": 128}))
    with pytest.raises(DataError, match="made by another recipe") as refusal:
        store.read_recipes(folder)
    assert str(refusal.value).endswith(rerun_hint("extract_features"))


@pytest.mark.reliability("tampered", "a damaged recipe.json", "65 and the cure")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_recipe_is_named_with_the_cure(folder: Path, content: bytes) -> None:
    """A recipe that is no JSON object ends in one sentence."""
    (folder / "1/recipe.json").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"1/recipe\.json must be .* object\. Received: {len(content)} bytes"
    ) as refusal:
        store.read_recipes(folder)
    assert str(refusal.value).endswith(rerun_hint("extract_features"))


def test_a_folder_without_views_is_refused(tmp_path: Path) -> None:
    """What is left when all views were removed is no features."""
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match="must hold a folder a view"):
        store.read_recipes(tmp_path)
