"""Views: cached features as a network takes them, one view of each photograph an epoch."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transfer.features import store
from transfer.images import manifest
from transfer.network.backend import keras
from transfer.runtime import seeding
from transfer.runtime.errors import DataError, rerun_hint

Part = Literal["boundary", "pooled"]
Features = NDArray[np.float16] | NDArray[np.float32]
Pool = Callable[[store.Activation], Features]

_ROOM = 512 << 20  # bytes of pooled rows that stay in memory: reading them is most of a head's epoch

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


class Dataset(keras.utils.PyDataset):  # type: ignore[misc]
    """What a training is shown; what a batch holds follows from its number and `epoch` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        # Keras reads in threads of TensorFlow's, which hide what was raised
        self.failure: DataError | OSError | None = None


class FeatureDataset(Dataset):
    """Batches of cached activations and labels, read from the disk as they are asked for.

    Args:
        folder: what the stage `extract_features` made.
        photographs: what to read, all of them at view 0 or, with a seed, at a view drawn anew each epoch.
        classes: class names in the order of their numbers; the labels are these numbers.
        part: which of a row's activations.
        pool: what is made of each activation; what comes of it stays in memory as long as there is room.
        batch_size: photographs a batch; the last may be smaller.
        seed: of the order and the views; None keeps the given order and view 0.

    Which photographs and views make up a batch follows from the seed, `epoch` and the batch's number alone.
    """

    def __init__(
        self,
        folder: Path,
        photographs: Sequence[manifest.Entry],
        *,
        classes: Sequence[str],
        part: Part,
        batch_size: int,
        seed: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._photographs = list(photographs)
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._part = part
        self._batch_size = batch_size
        self._seed = seed
        self._plan: tuple[int, list[manifest.Entry]] = (-1, [])
        self._pool = pool
        self._rows: dict[tuple[str, int], Features] = {}
        self._room = _ROOM if pool else 0
        self._shape: tuple[int, ...] | None = None  # of every activation, as the first one has it
        self._recipes = [store.recipe_digest(recipe) for recipe in store.read_recipes(folder)]

    def __len__(self) -> int:
        return math.ceil(len(self._photographs) / self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        chosen = self._order()[index * self._batch_size : (index + 1) * self._batch_size]
        rows = np.stack([self._read(photograph) for photograph in chosen]).astype(np.float32)
        labels = np.array([[self._numbers[photograph.class_name]] for photograph in chosen], np.float32)
        return rows, labels

    def _order(self) -> list[manifest.Entry]:
        if self._seed is None:
            return self._photographs
        epoch, plan = self.epoch, self._plan  # Keras reads ahead in several threads
        if plan[0] != epoch:
            key = partial(seeding.digest, self._seed, "order", epoch)
            plan = self._plan = (epoch, sorted(self._photographs, key=lambda photograph: key(photograph.sha256)))
        return plan[1]

    def _read(self, photograph: manifest.Entry) -> Features:
        view = self._view(photograph)
        row = self._rows.get((photograph.sha256, view))
        if row is None:
            activation = self._read_from_disk(photograph, view)
            row = self._pool(activation) if self._pool else activation
            if row.nbytes <= self._room:
                self._room -= row.nbytes
                self._rows[photograph.sha256, view] = row
        return row

    def _read_from_disk(self, photograph: manifest.Entry, view: int) -> store.Activation:
        path = self._folder / str(view) / f"{photograph.sha256}.npz"
        try:
            [activation] = store.read_parts(path, [self._part], recipe=self._recipes[view], photo=photograph.sha256)
            self._refuse_another_shape(path, activation.shape)
        except (store.DamagedRow, FileNotFoundError) as error:
            self.failure = DataError(f"{error}. {rerun_hint('extract_features')}")
            raise self.failure from None
        except OSError as error:
            self.failure = OSError(error.errno, error.strerror, str(path))
            raise self.failure from None
        return activation

    def _refuse_another_shape(self, path: Path, shape: tuple[int, ...]) -> None:
        self._shape = self._shape or shape
        if shape != self._shape:
            raise store.DamagedRow(f"{path} has the shape {shape}, and others {self._shape}")

    def _view(self, photograph: manifest.Entry) -> int:
        if self._seed is None:
            return 0
        return seeding.digest(self._seed, "view", self.epoch, photograph.sha256) % len(self._recipes)


def train_and_validation(
    folder: Path,
    photographs: Sequence[manifest.Entry],
    *,
    part: Part,
    batch_size: int,
    seed: int,
    pool: Pool | None = None,
) -> tuple[FeatureDataset, FeatureDataset]:
    """The views of the training split, drawn anew each epoch, and the validation split as it is."""
    of = {split: [entry for entry in photographs if entry.split == split] for split in ("train", "validation")}
    read = partial(
        FeatureDataset, folder, classes=manifest.classes(photographs), part=part, batch_size=batch_size, pool=pool
    )
    return read(of["train"], seed=seed), read(of["validation"])
