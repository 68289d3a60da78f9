"""Unfreeze the base above the boundary and train it with the head, at a low rate, from cached activations."""

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import heads, mirroring, neighbours, precision, saving, thresholds, vgg16, weights
from transfer.network.backend import keras
from transfer.network.card import describe, verified_card
from transfer.network.precision import Precision, PrecisionChoice
from transfer.network.thresholds import Thresholds
from transfer.runtime import disk, files, params, paths
from transfer.runtime.errors import DataError, rerun_hint
from transfer.training import calibration, devices, fit, inference, results, resume
from transfer.training.history import History, summary
from transfer.training.settings import Params as TrainingParams

log = logging.getLogger(__name__)


class Answers(params.Section):
    """How often the answer may be wrong instead of "not sure", or "none of these" instead of a class."""

    coverage: float = Field(gt=0, lt=1, description="fraction of each class's photographs whose own class is plausible")
    lost: float = Field(gt=0, lt=1, description="fraction of all classes' photographs answered `none of these`")


class Params(params.Section):
    """How the top of the network is trained and calibrated, and the seed of dropout, order and views."""

    precision: PrecisionChoice = Field(description="number format in which the unfrozen layers of the base compute")
    training: TrainingParams
    temperature: Literal["auto", "none"] = Field(description="by which the network divides its log odds")
    answers: Answers
    seed: int = Field(ge=0)


def main() -> None:
    """Write artifacts/fine_tune/: model.keras, model.json, rows.npz, history.csv, metrics.json and checkpoints/."""
    settings = params.load("fine_tune", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    recipes = store.read_recipes(paths.artifact("extract_features"))
    mirrored = store.read_mirrored_recipe(paths.artifact("extract_features"))
    base_file = paths.artifact("fetch_weights", "vgg16.weights.h5")
    head_file = paths.artifact("train_head", "head.keras")
    check_weights(base_file, recipes[0])
    verified_card(head_file, hint=rerun_hint("train_head"))
    inputs = store.lineage(paths.artifact("split", "manifest.csv"), recipes, mirrored=mirrored, head=head_file)
    computed_in = precision.choose(settings.precision)
    used = {**settings.model_dump(), "precision": computed_in}
    scratch = resume.scratch_folder("fine_tune", used, inputs, entry=Path(__file__))

    mirror = mirrored is not None
    top, model = networks(weights.read(base_file), head_file, recipes[0], computed_in, settings.training, mirror=mirror)
    history, head_loss = train(top, model, photographs, settings, scratch=scratch)

    scores = _scores(history, settings.training, head_loss)
    file = paths.artifact("fine_tune", "model.keras")
    rows_file = file.with_name(neighbours.FILE_NAME)
    temperature, fitted = calibrate(
        top, deployed(top, model), photographs, recipes[0], settings, mirrored=mirrored, rows_file=rows_file
    )
    classes = manifest.classes(photographs)
    card = describe(
        classes, recipes[0], inputs, used, scores, temperature=temperature, thresholds=fitted, mirror=mirror
    )
    metrics = {"head_val_loss": head_loss, **scores, "temperature": temperature}
    results.write_run(file, model, history, metrics=metrics, card=card, scratch=scratch)


def _scores(history: History, training: TrainingParams, head_loss: float) -> dict[str, float]:
    scores = summary(history, training, loss_to_beat=head_loss)
    if "best_epoch" not in scores:
        log.warning(
            "No epoch of fine-tuning has a validation loss below the head's %.4f: its model is kept.", head_loss
        )
    return scores


def check_weights(file: Path, recipe: store.Recipe) -> None:
    """Check that a file of weights is the one that the features were computed with.

    Raises:
        DataError: it is another one.
    """
    received = files.sha256(file)
    if received != recipe["weights"]:
        raise DataError(
            f"{file} must be the weights that the features were computed with, whose sha256 begins with "
            f"{recipe['weights'][:12]}. Received: {received[:12]}. {rerun_hint('fetch_weights', 'extract_features')}"
        )


def networks(
    base: weights.Weights,
    head: Path,
    recipe: store.Recipe,
    computed_in: Precision,
    training: TrainingParams,
    *,
    mirror: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """Build the network to train, from boundary activations to probabilities, and the model that is deployed.

    Args:
        base: the weights of the base.
        head: the file of the head.
        recipe: of the features.
        computed_in: the precision of the top.
        training: parameters of training, which may ask for one device.
        mirror: whether the model averages the log odds of a photograph and its mirror image. The top is trained on
            single pictures, as mirrored views to train on improved no network, see docs/results.md.

    Returns:
        The top, whose layers of the base compute in `computed_in` and which several GPUs share, and the model from
        photographs (uint8 RGB of the recipe's `image_size`) to probabilities, which computes in float32 on one device.
        Each has a head of its own; `deployed` gives the model the weights of the top.
    """
    boundary, image_size = recipe["boundary"], recipe["image_size"]
    with devices.sharing(training):
        activations = keras.Input(vgg16.shape_after(boundary, image_size=image_size))
        unfrozen = vgg16.top_layers(base, above=boundary, dtype=precision.training_policy(computed_in))
        top = keras.Sequential([activations, *unfrozen, saving.load(head)])
    photograph = keras.Input((image_size, image_size, 3), dtype="uint8", name="photograph")
    base_layers = [*vgg16.frozen_layers(base, through=boundary), *vgg16.top_layers(base, above=boundary)]
    layers = [*base_layers, saving.load(head)]
    return top, mirroring.build(photograph, layers) if mirror else keras.Sequential([photograph, *layers])


def deployed(top: keras.Model, model: keras.Model) -> keras.Model:
    """Return `model` after giving its layers the weights of those of the same name in `top`."""
    for layer in top.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def train(
    top: keras.Model, model: keras.Model, photographs: list[manifest.Entry], settings: Params, *, scratch: Path
) -> tuple[History, float]:
    """Train the top of a model on boundary activations, in place; `model` is deployed at checkpoints.

    Returns:
        The history, and the validation loss before training, which is the head's; an epoch must be below it to count.

    Raises:
        DiskError: the disk has too little space for the run; nothing has been trained.
    """
    training, validation = dataset.train_and_validation(
        paths.artifact("extract_features"),
        photographs,
        part="boundary",
        batch_size=settings.training.batch_size,
        seed=settings.seed,
        devices=devices.count(top),
    )
    fit.compile_model(top, settings.training, batches=len(training), counts=training.counts)
    folder = paths.artifact("fine_tune")
    disk.require_space(fit.required_space(top, model, settings=settings.training, scratch=scratch, results=folder))
    head_loss = fit.validation_loss(top, validation)
    history = fit.fit(
        top,
        training,
        validation,
        settings=settings.training,
        seed=settings.seed,
        scratch=scratch,
        name="fine_tune",
        loss_to_beat=head_loss,
        exported=partial(deployed, top, model),
    )
    return history, head_loss


def calibrate(
    top: keras.Model,
    model: keras.Model,
    photographs: list[manifest.Entry],
    recipe: store.Recipe,
    settings: Params,
    *,
    mirrored: store.Recipe | None = None,
    rows_file: Path,
) -> tuple[float, Thresholds]:
    """Divide the log odds of a model by a temperature, in place, if this clearly improves its probabilities.

    Args:
        top: its layers above the boundary as they were trained, which give the rows of the training photographs in
            their precision; distances are between these and rows of the network itself, here as in use.
        model: the network to deploy.
        photographs: of all splits.
        recipe: of the features.
        settings: of the stage.
        mirrored: of the features of mirror images, if the model averages their log odds with those of photographs.
        rows_file: where the rows of the training photographs are written.

    Returns:
        The temperature, 1 if the model is unchanged, and the thresholds of answers.
    """
    classes, above = manifest.classes(photographs), inference.above(model, recipe["boundary"])
    _, rows = inference.with_rows(top, **_cached(photographs, "train", settings), description="fine_tune rows")
    predicted, others = inference.with_rows(
        above, **_cached(photographs, "validation", settings, mirrored), description="fine_tune calibration"
    )
    labels = np.array([classes.index(each.class_name) for each in photographs if each.split == "validation"])
    temperature = calibration.choose_temperature(labels, predicted) if settings.temperature == "auto" else 1.0
    if temperature != 1:
        heads.divide_log_odds(above.layers[-1], temperature)
        predicted = calibration.at_temperature(predicted, temperature)
        log.info("The log odds are divided by the temperature %.3g, which improves the probabilities.", temperature)
    return temperature, thresholds.fit(
        labels,
        predicted,
        neighbours.distance_to(rows, neighbours=thresholds.NEIGHBOURS)(others),
        classes,
        coverage=settings.answers.coverage,
        lost=settings.answers.lost,
        rows=neighbours.write(rows_file, rows),
    )


def _cached(
    photographs: list[manifest.Entry], split: str, settings: Params, mirrored: store.Recipe | None = None
) -> dict[str, dataset.FeatureDataset]:
    """Return the boundary activations of a split, as `inference.cached` does, in the order of the manifest."""
    return inference.cached(
        paths.artifact("extract_features"),
        [photograph for photograph in photographs if photograph.split == split],
        classes=manifest.classes(photographs),
        part="boundary",
        batch_size=settings.training.batch_size,
        mirrored=mirrored,
    )
