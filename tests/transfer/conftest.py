import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfer.features import store
from transfer.images import manifest

Cached = Callable[..., tuple[Path, list[manifest.Entry]]]


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    """Return a function that writes features from which a class can be learned, and returns folder and manifest."""

    def make(
        *,
        train: int = 24,
        validation: int = 12,
        views: int = 2,
        classes: tuple[str, ...] = ("cat", "dog"),
        noise: float = 0.5,
    ) -> tuple[Path, list[manifest.Entry]]:
        folder = tmp_path / "features"
        recipes = [{"view": view} for view in range(views + 1)]
        store.write_recipes(folder, dict(enumerate(recipes)))
        entries = []
        for number in range(train + validation):
            split, label = "train" if number < train else "validation", number % len(classes)
            photo = hashlib.sha256(str(number).encode()).hexdigest()
            entries.append(manifest.Entry(f"photos/{number}.jpg", classes[label], photo, 10, 10, split))
            for view, recipe in enumerate(recipes[: views + 1 if split == "train" else 1]):
                random = np.random.default_rng([number, view])
                boundary = random.normal(0, noise, (4, 4, 8)) + np.eye(8)[label] * 2
                row = store.to_row(boundary, boundary[:2, :2] + view / 10)
                path = folder / str(view) / f"{photo}.npz"
                store.write_row(path, row, recipe=store.recipe_digest(recipe), photo=photo)
        return folder, entries

    return make
