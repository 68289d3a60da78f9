"""Train a rung from nothing: `python -m ladder.train cnn`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from ladder import networks, pictures, rungs, upstream
from transfer.images import augmentation, decoding, manifest
from transfer.network.card import describe
from transfer.runtime import disk, files, params, paths, stage
from transfer.training import fit, results, resume
from transfer.training.history import summary

log = logging.getLogger(__name__)


class Params(params.Section):
    """What all rungs share: the pictures, how they are varied, and the seed."""

    image_size: int = Field(ge=16, le=512, description="edge of the pictures, pixels")
    resizing: decoding.Resizing
    augmentation: augmentation.Params
    seed: int = Field(ge=0, description="of first weights, dropout, order and views")


def shown(
    settings: Params, photographs: Sequence[manifest.Entry], *, augmented: bool, batch_size: int, name: str
) -> tuple[pictures.Pictures, pictures.Pictures]:
    """The pictures of the training split, in another order each epoch, and those of the validation split."""
    of = {split: [entry for entry in photographs if entry.split == split] for split in ("train", "validation")}
    classes = manifest.classes(photographs)
    sizes = {"train": settings.image_size * (pictures.FINER if augmented else 1), "validation": settings.image_size}
    pixels = {
        split: pictures.read(
            upstream.artifact("subsample"), of[split], size=size, resizing=settings.resizing, name=f"{name}, {split}"
        )
        for split, size in sizes.items()
    }
    train = pictures.Pictures(
        pixels["train"],
        of["train"],
        classes=classes,
        batch_size=batch_size,
        seed=settings.seed,
        augmented=settings.augmentation if augmented else None,
    )
    return train, pictures.Pictures(pixels["validation"], of["validation"], classes=classes, batch_size=batch_size)


def main() -> None:
    """Write artifacts/train/<rung>/: model.keras, model.json, history.csv and metrics.json."""
    parser = argparse.ArgumentParser(prog="python -m ladder.train", description="Train a rung from nothing.")
    parser.add_argument("rung", choices=rungs.FROM_NOTHING)
    name = parser.parse_args().rung
    settings, rung = params.load("train", Params), params.load(name, rungs.FROM_NOTHING[name])
    photographs = manifest.read(upstream.artifact("split", "manifest.csv"))
    classes = manifest.classes(photographs)
    inputs = {
        "photographs": files.sha256(upstream.artifact("split", "manifest.csv")),
        "code": [files.sha256(module) for module in sorted(Path(__file__).parent.glob("*.py"))],
    }
    asked_for = {**settings.model_dump(), **rung.model_dump()}
    scratch = resume.scratch_folder(name, asked_for, inputs, entry=Path(__file__))

    train, validation = shown(
        settings, photographs, augmented=rung.augmented, batch_size=rung.training.batch_size, name=name
    )
    network = networks.build(rung.network, image_size=settings.image_size, classes=len(classes), seed=settings.seed)
    fit.compile_model(network, rung.training, batches=len(train))
    network.jit_compile = False  # XLA's convolutions and poolings are slower here, and take a minute to compile
    folder = paths.artifact("train", name)
    disk.require_space(fit.required_space(network, network, settings=rung.training, scratch=scratch, results=folder))
    history = fit.fit(
        network, train, validation, settings=rung.training, seed=settings.seed, scratch=scratch, name=name
    )

    scores = summary(history, rung.training)
    card = describe(classes, asked_for, inputs, asked_for, scores)
    results.write(folder / "model.keras", network, history, metrics=scores, card=card)
    resume.discard(scratch)


if __name__ == "__main__":
    stage.run(main)
