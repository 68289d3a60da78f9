"""Split: give each photograph to training, validation or test."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import Field, model_validator

from transfer.images import manifest
from transfer.runtime import files, params, paths, seeding
from transfer.runtime.errors import DataError

STAGE = "split"

log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]


class Params(params.Section):
    """Which parts of the photographs are held back; what is left is trained on.

    Args:
        validation: fraction that decides when to stop and what to keep.
        test: fraction that is looked at only for the final scores.
        training_photographs: how many of the rest are trained on at most, as many of each class; None: all.
        seed: what the split follows from.
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
    """The split of a photograph: it follows from its content and the seed, whatever other photographs there are.

    Test comes first, so that another `validation` moves no photograph into or out of it.
    """
    fraction = seeding.fraction(STAGE, settings.seed, sha256)
    if fraction < settings.test:
        return "test"
    return "validation" if fraction < settings.test + settings.validation else "train"


def assigned(entries: Iterable[manifest.Entry], settings: Params) -> list[manifest.Entry]:
    """The photographs with their splits, without those that are too many to train on.

    Which of these stay follows from their content and the seed, so fewer are always among more.
    """
    everything = [entry._replace(split=split_of(entry.sha256, settings)) for entry in entries]
    if settings.training_photographs is None:
        return everything
    to_train_on = [entry for entry in everything if entry.split == "train"]
    names = manifest.classes(everything)
    stay = {
        entry
        for number, name in enumerate(names)
        for entry in sorted(
            (entry for entry in to_train_on if entry.class_name == name),
            key=lambda entry: seeding.digest(STAGE, settings.seed, "training_photographs", entry.sha256),
        )[: (settings.training_photographs + len(names) - 1 - number) // len(names)]
    }
    return [entry for entry in everything if entry.split != "train" or entry in stay]


def counts(entries: Iterable[manifest.Entry]) -> dict[Split, dict[str, int]]:
    """Photographs by split and class, with the zeros."""
    rows = list(entries)
    found = Counter((row.split, row.class_name) for row in rows)
    return {split: {name: found[split, name] for name in manifest.classes(rows)} for split in get_args(Split)}


def refuse_empty(by_split: dict[Split, dict[str, int]]) -> None:
    """Stop where a split lacks a class: its scores would mean nothing.

    Raises:
        DataError: with each class that is missing and the split that lacks it, or fewer than two classes.
    """
    names = list(by_split["train"])
    if len(names) < 2:
        raise DataError(f"There must be two classes or more. Received: {', '.join(names) or 'no photographs'}.")
    missing = [
        f"`{name}` in {split}" for split, classes in by_split.items() for name, count in classes.items() if not count
    ]
    if missing:
        raise DataError(
            f"Every class must be in every split. Received: no {', no '.join(missing)}. Raise "
            "`subsample.photographs` or the split's fraction, or choose another `split.seed`."
        )


def main() -> None:
    """Read artifacts/subsample/manifest.csv and write artifacts/split/."""
    settings = params.load(STAGE, Params)
    entries = assigned(manifest.read(paths.artifact("subsample", "manifest.csv")), settings)
    by_split = counts(entries)
    refuse_empty(by_split)
    manifest.write(paths.artifact(STAGE, "manifest.csv"), entries)
    files.write_json(paths.artifact(STAGE, "metrics.json"), by_split)
    log.info("%s", "; ".join(f"{split}: {_listed(classes)}" for split, classes in by_split.items()))


def _listed(classes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in classes.items())
