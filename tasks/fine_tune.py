"""Unfreeze the base above the boundary and train it together with the head, slowly, from cached activations."""

import logging
from pathlib import Path

from pydantic import Field

from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import saving, vgg16, weights
from transfer.network.backend import keras
from transfer.network.card import describe, verified_card
from transfer.runtime import disk, files, params, paths
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training import fit

log = logging.getLogger(__name__)


class Params(params.Section):
    """How the top is trained, and the seed of dropout, order and views."""

    training: fit.Params
    seed: int = Field(ge=0)


def refuse_other_weights(file: Path, recipe: store.Recipe) -> None:
    """Stop where the base is not the one that the features were computed with.

    Raises:
        DataError: with the file.
    """
    received = files.sha256(file)
    if received != recipe["weights"]:
        raise DataError(
            f"{file} must be the weights that the features were computed with, whose sha256 begins with "
            f"{recipe['weights'][:12]}. Received: {received[:12]}. {rerun_hint('fetch_weights', 'extract_features')}"
        )


def main() -> None:
    """Write artifacts/fine_tune/: model.keras, model.json, history.csv, metrics.json and checkpoints/."""
    settings = params.load("fine_tune", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    recipes = store.read_recipes(paths.artifact("extract_features"))
    boundary, image_size = recipes[0]["boundary"], recipes[0]["image_size"]
    weights_file = paths.artifact("fetch_weights", "vgg16.weights.h5")
    refuse_other_weights(weights_file, recipes[0])
    head_file = paths.artifact("train_head", "head.keras")
    verified_card(head_file, cure=rerun_hint("train_head"))
    inputs = store.lineage(paths.artifact("split", "manifest.csv"), recipes, head=head_file)
    scratch = fit.scratch("fine_tune", settings.model_dump(), inputs)

    train, validation = dataset.train_and_validation(
        paths.artifact("extract_features"),
        photographs,
        part="boundary",
        batch_size=settings.training.batch_size,
        seed=settings.seed,
    )
    imagenet = weights.read(weights_file)
    top = [*vgg16.top_layers(imagenet, above=boundary), saving.load(head_file)]
    trained = keras.Sequential([keras.Input(vgg16.shape_after(boundary, image_size=image_size)), *top])
    whole = keras.Sequential(
        [
            keras.Input((image_size, image_size, 3), dtype="uint8", name="photograph"),
            *vgg16.frozen_layers(imagenet, through=boundary),
            *top,
        ]
    )
    fit.compile_model(trained, settings.training, batches=len(train))
    folder = paths.artifact("fine_tune")
    disk.require_space(fit.needs(trained, whole, settings=settings.training, scratch=scratch, results=folder))
    loss_of_head = fit.validation_loss(trained, validation)
    history = fit.fit(
        trained,
        train,
        validation,
        settings=settings.training,
        seed=settings.seed,
        scratch=scratch,
        name="fine_tune",
        loss_to_beat=loss_of_head,
        whole=whole,
    )

    scores = fit.summary(history, settings.training, loss_to_beat=loss_of_head)
    if "best_epoch" not in scores:
        log.warning(
            "No epoch of fine-tuning has a validation loss below the head's %.4f: its model is kept.", loss_of_head
        )
    card = describe(manifest.classes(photographs), recipes[0], inputs, settings.model_dump(), scores)
    metrics = {"head_val_loss": loss_of_head, **scores}
    fit.write(folder / "model.keras", whole, history, metrics=metrics, card=card)
    fit.write_checkpoints(folder / "checkpoints", scratch)
    files.remove_folder(scratch.parent)  # of abandoned trainings too
