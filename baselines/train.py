"""Train one model from scratch: `python -m baselines train MODEL`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from baselines import dataset, models, networks, parameters
from baselines.dataset import ImageDataset
from transfer.images import augmentation, decoding, manifest
from transfer.network.backend import keras
from transfer.network.card import describe
from transfer.runtime import disk, files, params, paths
from transfer.training import fit, results, resume
from transfer.training.history import History, summary

STAGE = "train"


class Params(params.Section):
    """The settings that all models share: images, augmentation and seed."""

    image_size: int = Field(ge=16, le=512, description="edge of the images, pixels")
    resizing: decoding.Resizing
    augmentation: augmentation.Params
    seed: int = Field(ge=0, description="of initial weights, dropout, order and views")


def datasets(
    settings: Params, photographs: Sequence[manifest.Entry], *, augmented: bool, batch_size: int, name: str
) -> tuple[ImageDataset, ImageDataset]:
    """Read the training split, which gets a new order each epoch, and the validation split."""
    splits = {split: [entry for entry in photographs if entry.split == split] for split in ("train", "validation")}
    sizes = {
        "train": settings.image_size * (dataset.OVERSAMPLING if augmented else 1),
        "validation": settings.image_size,
    }
    folder, classes = paths.artifact("subsample"), manifest.classes(photographs)
    images = {
        split: dataset.read_images(
            folder, splits[split], size=size, resizing=settings.resizing, name=f"{name}, {split}"
        )
        for split, size in sizes.items()
    }
    train = ImageDataset(
        images["train"],
        splits["train"],
        classes=classes,
        batch_size=batch_size,
        seed=settings.seed,
        augmentation_params=settings.augmentation if augmented else None,
    )
    return train, ImageDataset(images["validation"], splits["validation"], classes=classes, batch_size=batch_size)


def fit_network(
    name: str, settings: Params, model: models.Model[Any], photographs: Sequence[manifest.Entry], *, scratch: Path
) -> tuple[keras.Model, History]:
    """Build and train a network, or resume its training; see `fit.fit`.

    Args:
        name: name of the model.
        settings: settings that all models share.
        model: settings of this model.
        photographs: the manifest, with splits.
        scratch: folder of the state to resume from.

    Returns:
        The network with the weights of its best epoch, and its history.
    """
    training = model.training
    train, validation = datasets(
        settings, photographs, augmented=model.augmented, batch_size=training.batch_size, name=name
    )
    class_names = manifest.classes(photographs)
    network = networks.build(
        model.network, image_size=settings.image_size, classes=len(class_names), seed=settings.seed
    )
    counts = [sum(each.class_name == name for each in photographs if each.split == "train") for name in class_names]
    fit.compile_model(network, training, batches=len(train), counts=counts)
    network.jit_compile = False  # XLA's convolutions and poolings are slower here, and take a minute to compile
    folder = paths.artifact("baselines", STAGE, name)
    disk.require_space(fit.required_space(network, network, settings=training, scratch=scratch, results=folder))
    history = fit.fit(network, train, validation, settings=training, seed=settings.seed, scratch=scratch, name=name)
    return network, history


def main(name: str) -> None:
    """Write artifacts/baselines/train/<name>/: model.keras, model.json, history.csv and metrics.json."""
    settings, model = parameters.load(STAGE, Params), parameters.load(name, models.FROM_SCRATCH[name])
    manifest_file = paths.artifact("split", "manifest.csv")
    photographs = manifest.read(manifest_file)
    used_params = {**settings.model_dump(), **model.model_dump()}
    inputs = {"photographs": files.sha256(manifest_file)}
    scratch = resume.scratch_folder(name, used_params, inputs, entry=Path(__file__))

    network, history = fit_network(name, settings, model, photographs, scratch=scratch)

    scores = summary(history, model.training)
    card = describe(manifest.classes(photographs), used_params, inputs, used_params, scores)
    folder = paths.artifact("baselines", STAGE, name)
    results.write(folder / "model.keras", network, history, metrics=scores, card=card)
    resume.discard(scratch)
