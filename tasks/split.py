"""Split: assign each photograph to training, validation or test."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from pydantic import Field, model_validator

from transfer.images import manifest
from transfer.runtime import files, params, paths, seeding
from transfer.runtime.errors import DataError

STAGE = "split"

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]


class Params(params.Section):
    """The fractions that are held back; the rest is for training.

    Args:
        validation: fraction used to choose the best epoch and to stop early.
        test: fraction used only for the final scores.
        training_photographs: upper limit of the training split, balanced over the classes; None: no limit.
        seed: of the split.
    """

    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)
    training_photographs: int | None = Field(ge=2)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _leaves_photographs_to_train_on(self) -> "Params":
        if self.validation + self.test >= 1:
            raise ValueError(
                "`validation` + `test` must be less than 1, to leave photographs to train on. "
                f"Received: validation={self.validation:g}, test={self.test:g}"
            )
        return self


def split_of(sha256: str, settings: Params) -> Split:
    """Return the split of a photograph; it follows from its content and the seed, not from the other photographs.

    Test comes first, so that another `validation` fraction moves no photograph into or out of the test split.
    """
    fraction = seeding.fraction(STAGE, settings.seed, sha256)
    if fraction < settings.test:
        return "test"
    return "validation" if fraction < settings.test + settings.validation else "train"


def assign(entries: Iterable[manifest.Entry], settings: Params) -> list[manifest.Entry]:
    """Return the photographs with their splits, without the training photographs beyond the limit.

    The training photographs that remain follow from their content and the seed, so a smaller limit gives a subset of
    a larger one.
    """
    assigned = _without_gaps([entry._replace(split=split_of(entry.sha256, settings)) for entry in entries], settings)
    if settings.training_photographs is None:
        return assigned
    remaining = {*_limit(assigned, settings.training_photographs, seed=settings.seed)}
    return [entry for entry in assigned if entry.split != "train" or entry in remaining]


def _without_gaps(entries: list[manifest.Entry], settings: Params) -> list[manifest.Entry]:
    """Give each split that has no photograph of a class the one whose fraction is nearest, if another split has two.

    A class of a few photographs would otherwise miss a split. Only that photograph moves, and only until the class has
    one that belongs there; where the others are does not depend on it.
    """
    filled = {entry.path: entry for entry in entries}
    for name in manifest.classes(entries):
        for split in ("test", "validation", "train"):
            of_class = [entry for entry in filled.values() if entry.class_name == name]
            sizes = Counter(entry.split for entry in of_class)
            donors = [entry for entry in of_class if sizes[entry.split] > 1]
            if not sizes[split] and donors:
                nearest = min(donors, key=lambda entry: (_distance(entry.sha256, split, settings), entry.path))
                filled[nearest.path] = nearest._replace(split=split)
    return list(filled.values())


def _distance(sha256: str, split: Split, settings: Params) -> float:
    """Return how far a photograph's fraction is from those of a split."""
    held_back = settings.test + settings.validation
    ranges = {"test": (0.0, settings.test), "validation": (settings.test, held_back), "train": (held_back, 1.0)}
    low, high = ranges[split]
    fraction = seeding.fraction(STAGE, settings.seed, sha256)
    return max(low - fraction, fraction - high, 0.0)


def _limit(entries: list[manifest.Entry], limit: int, *, seed: int) -> Iterator[manifest.Entry]:
    """Draw training photographs, of each class the same number; if it does not divide, the first classes get more."""
    names = manifest.classes(entries)
    for number, name in enumerate(names):
        photographs = sorted(
            (entry for entry in entries if entry.split == "train" and entry.class_name == name),
            key=lambda entry: seeding.digest(STAGE, seed, "training_photographs", entry.sha256),
        )
        yield from photographs[: (limit + len(names) - 1 - number) // len(names)]


def count(entries: Iterable[manifest.Entry]) -> dict[Split, dict[str, int]]:
    """Count the photographs by split and class, zeros included."""
    rows = list(entries)
    counter = Counter((row.split, row.class_name) for row in rows)
    return {split: {name: counter[split, name] for name in manifest.classes(rows)} for split in get_args(Split)}


def check_classes(counts: dict[Split, dict[str, int]]) -> None:
    """Check that every split has photographs of every class; without them its scores would mean nothing.

    Raises:
        DataError: a class is missing from a split, or there are fewer than two classes.
    """
    names = list(counts["train"])
    if len(names) < 2:
        raise DataError(f"There must be two classes or more. Received: {', '.join(names) or 'no photographs'}.")
    missing = [
        f"`{name}` in {split}" for split, classes in counts.items() for name, number in classes.items() if not number
    ]
    if missing:
        raise DataError(
            f"Every class must be in every split. Received: no {', no '.join(missing)}. Each class needs three "
            "photographs or more: raise `subsample.photographs`, or add photographs."
        )


def main() -> None:
    """Read artifacts/subsample/manifest.csv and write artifacts/split/."""
    settings = params.load(STAGE, Params)
    photographs = manifest.read(paths.artifact("subsample", "manifest.csv"))
    entries = assign(photographs, settings)
    counts = count(entries)
    check_classes(counts)
    manifest.write(paths.artifact(STAGE, "manifest.csv"), entries)
    files.write_json(paths.artifact(STAGE, "metrics.json"), counts)
    log.info("%s", "; ".join(f"{split}: {_listed(classes)}" for split, classes in counts.items()))


def _listed(classes: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in classes.items())
