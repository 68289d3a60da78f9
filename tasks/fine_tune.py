"""Unfreeze the base above the boundary and train it together with the head, slowly, from cached activations."""

import logging
from pathlib import Path

from pydantic import Field

from transfer import disk, features, manifest, models, outputs, params, paths, stage, training, vgg16, views, weights
from transfer.backend import keras
from transfer.errors import DataError, remake

log = logging.getLogger(__name__)


class Params(params.Section):
    """How the top is trained, and the seed of dropout, order and views."""

    training: training.Params
    seed: int = Field(ge=0)


def refuse_other_weights(file: Path, recipe: features.Recipe) -> None:
    """Stop where the base is not the one that the features were computed with.

    Raises:
        DataError: with the file.
    """
    received = outputs.sha256(file)
    if received != recipe["weights"]:
        raise DataError(
            f"{file} must be the weights that the features were computed with, whose sha256 begins with "
            f"{recipe['weights'][:12]}. Received: {received[:12]}. {remake('fetch_weights', 'extract_features')}"
        )


def main() -> None:
    """Write artifacts/fine_tune/: model.keras, model.json, history.csv, metrics.json and checkpoints/."""
    settings = params.load("fine_tune", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    recipes = features.read_recipes(paths.artifact("extract_features"))
    boundary, image_size = recipes[0]["boundary"], recipes[0]["image_size"]
    weights_file = paths.artifact("fetch_weights", "vgg16.weights.h5")
    refuse_other_weights(weights_file, recipes[0])
    head_file = paths.artifact("train_head", "head.keras")
    models.card_of(head_file, cure=remake("train_head"))
    inputs = models.inputs(paths.artifact("split", "manifest.csv"), recipes, head=head_file)
    scratch = training.scratch("fine_tune", settings.model_dump(), inputs)

    train, validation = views.to_train_on(
        paths.artifact("extract_features"),
        photographs,
        part="boundary",
        batch_size=settings.training.batch_size,
        seed=settings.seed,
    )
    imagenet = weights.read(weights_file)
    top = [*vgg16.top_layers(imagenet, above=boundary), models.load(head_file)]
    trained = keras.Sequential([keras.Input(vgg16.shape_after(boundary, image_size=image_size)), *top])
    whole = keras.Sequential(
        [
            keras.Input((image_size, image_size, 3), dtype="uint8", name="photograph"),
            *vgg16.frozen_layers(imagenet, through=boundary),
            *top,
        ]
    )
    training.compile_model(trained, settings.training, batches=len(train))
    folder = paths.artifact("fine_tune")
    disk.require(training.needs(trained, whole, settings=settings.training, scratch=scratch, results=folder))
    loss_of_head = training.validation_loss(trained, validation)
    history = training.fit(
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

    scores = training.summary(history, settings.training, loss_to_beat=loss_of_head)
    if "best_epoch" not in scores:
        log.warning(
            "No epoch of fine-tuning has a validation loss below the head's %.4f: its model is kept.", loss_of_head
        )
    card = models.card(manifest.classes(photographs), recipes[0], inputs, settings.model_dump(), scores)
    metrics = {"head_val_loss": loss_of_head, **scores}
    training.write(folder / "model.keras", whole, history, metrics=metrics, card=card)
    training.write_checkpoints(folder / "checkpoints", scratch)
    outputs.remove_folder(scratch.parent)  # of abandoned trainings too


if __name__ == "__main__":
    stage.run(main)
