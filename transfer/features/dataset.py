"""Dataset: batches of cached features for Keras, one view of each photograph per epoch."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from transfer.features import store
from transfer.features.views import MIRRORED
from transfer.images import manifest
from transfer.network.backend import keras
from transfer.runtime import progress, seeding
from transfer.runtime.errors import DataError, rerun_hint

Part = Literal["boundary", "pooled"]
Features = NDArray[np.float16] | NDArray[np.float32]
Pool = Callable[[store.Activation], Features]

_MEMORY_BYTES = 512 << 20  # of pooled rows held in memory: reading them again would take most of a head's epoch

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


class Dataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Base class of datasets whose batches follow from their index and the attribute `epoch` alone.

    `failure` is the exception that ended reading, if any: Keras reads in threads of TensorFlow's, which hide it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.failure: DataError | OSError | None = None


class FeatureDataset(Dataset):
    """Batches of cached activations and labels, read from the disk on demand.

    The photographs and views of a batch follow from `seed`, the attribute `epoch` and the batch's index alone.

    Args:
        folder: the output of the stage `extract_features`.
        photographs: the photographs; without a seed one view of each, with a seed a view drawn anew in each epoch.
        classes: class names; a label is the index of a name.
        part: which of a row's activations is read.
        pool: applied to each activation; the results are held in memory, up to 512 MiB. None: activations are
            read anew each time.
        batch_size: photographs per batch; the last batch may be smaller.
        multiple_of: the last batch has a multiple of so many photographs; the few others are left out of an epoch.
        seed: of the order and the views; None keeps the order of `photographs`, with one view of each.
        mirrored: without a seed, the recipe of the mirror images, which are read then; None: view 0 is read.
    """

    def __init__(
        self,
        folder: Path,
        photographs: Sequence[manifest.Entry],
        *,
        classes: Sequence[str],
        part: Part,
        batch_size: int,
        multiple_of: int = 1,
        seed: int | None = None,
        mirrored: store.Recipe | None = None,
        pool: Pool | None = None,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._photographs = list(photographs)
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._part = part
        self._batch_size = batch_size
        self._number_used = len(photographs) // multiple_of * multiple_of
        self._seed = seed
        self._order_of_epoch: tuple[int, list[manifest.Entry]] = (-1, [])
        self._pool = pool
        self._rows: dict[tuple[str, int], Features] = {}
        self._free_bytes = _MEMORY_BYTES if pool else 0
        self._shape: tuple[int, ...] | None = None  # of every activation, as in the first row read
        recipes = {MIRRORED: mirrored} if mirrored else dict(enumerate(store.read_recipes(folder)))
        self._recipes = {view: store.recipe_digest(recipe) for view, recipe in recipes.items()}

    def __len__(self) -> int:
        return math.ceil(self._number_used / self._batch_size)

    @property
    def counts(self) -> list[int]:
        """The number of photographs of each class, in the order of the class numbers."""
        counts = Counter(photograph.class_name for photograph in self._photographs)
        return [counts[name] for name in self._numbers]

    def __getitem__(self, index: int) -> Batch:
        photographs = self._order()[: self._number_used][index * self._batch_size : (index + 1) * self._batch_size]
        rows = np.stack([self._read(photograph) for photograph in photographs]).astype(np.float32)
        labels = np.array([[self._numbers[photograph.class_name]] for photograph in photographs], np.float32)
        return rows, labels

    def _order(self) -> list[manifest.Entry]:
        """Return the photographs in the order of the current epoch."""
        if self._seed is None:
            return self._photographs
        epoch, (known_epoch, order) = self.epoch, self._order_of_epoch  # several threads of Keras read ahead
        if known_epoch != epoch:
            key = partial(seeding.digest, self._seed, "order", epoch)
            order = sorted(self._photographs, key=lambda photograph: key(photograph.sha256))
            self._order_of_epoch = (epoch, order)
        return order

    def _read(self, photograph: manifest.Entry) -> Features:
        """Return the features of a photograph in the current epoch, from memory or from the disk."""
        view = self._view(photograph)
        row = self._rows.get((photograph.sha256, view))
        if row is None:
            activation = self._read_from_disk(photograph, view)
            row = self._pool(activation) if self._pool else activation
            if row.nbytes <= self._free_bytes:
                self._free_bytes -= row.nbytes
                self._rows[photograph.sha256, view] = row
        return row

    def _read_from_disk(self, photograph: manifest.Entry, view: int) -> store.Activation:
        path = self._folder / store.folder_name(view) / f"{photograph.sha256}.npz"
        try:
            [activation] = store.read_parts(path, [self._part], recipe=self._recipes[view], photo=photograph.sha256)
            self._check_shape(path, activation.shape)
        except (store.DamagedRow, FileNotFoundError) as error:
            self.failure = DataError(f"{error}. {rerun_hint('extract_features')}")
            raise self.failure from None
        except OSError as error:
            self.failure = OSError(error.errno, error.strerror, str(path))
            raise self.failure from None
        return activation

    def _check_shape(self, path: Path, shape: tuple[int, ...]) -> None:
        self._shape = self._shape or shape
        if shape != self._shape:
            raise store.DamagedRow(f"{path} has the shape {shape}, other rows have {self._shape}")

    def _view(self, photograph: manifest.Entry) -> int:
        """Draw the view of a photograph in the current epoch."""
        if self._seed is None:
            return MIRRORED if MIRRORED in self._recipes else 0
        return seeding.digest(self._seed, "view", self.epoch, photograph.sha256) % len(self._recipes)


def activations(batches: FeatureDataset, *, description: str) -> Iterator[Features]:
    """Yield the activations of one batch after the other, under a progress bar.

    Args:
        batches: activations and labels; the labels are not used.
        description: text of the progress bar.

    Raises:
        DataError: a row of the cache is damaged.
    """
    with progress.bar(total=len(batches), description=description, unit="batches") as bar:
        for number in range(len(batches)):
            yield batches[number][0]
            bar.update()


def with_mirrored(
    batches: FeatureDataset, mirrored: FeatureDataset | None, *, description: str
) -> Iterator[list[Features]]:
    """Yield, for one batch after the other, its activations, and those of the mirror images if there are any.

    Args:
        batches: as for `activations`.
        mirrored: the mirror images of the same photographs, in the same batches.
        description: text of the progress bar.

    Raises:
        DataError: a row of the cache is damaged.
    """
    for number, each in enumerate(activations(batches, description=description)):
        yield [each] if mirrored is None else [each, mirrored[number][0]]


def train_and_validation(
    folder: Path,
    photographs: Sequence[manifest.Entry],
    *,
    part: Part,
    batch_size: int,
    seed: int,
    devices: int = 1,
    pool: Pool | None = None,
) -> tuple[FeatureDataset, FeatureDataset]:
    """Return the datasets of the training split, with views drawn anew each epoch, and of the validation split.

    The arguments are those of `FeatureDataset`; the validation split has view 0 alone. Several devices, at most
    `batch_size`, get equal shares of every batch of the training split.
    """
    dataset = partial(
        FeatureDataset, folder, classes=manifest.classes(photographs), part=part, batch_size=batch_size, pool=pool
    )
    train, validation = (
        [photograph for photograph in photographs if photograph.split == split] for split in ("train", "validation")
    )
    shared = dataset(train, seed=seed, batch_size=batch_size // devices * devices, multiple_of=devices)
    return shared, dataset(validation)
