"""Train a head on the cached features of the frozen base."""

from functools import partial
from pathlib import Path

from pydantic import Field

from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import heads, vgg16
from transfer.network.backend import keras
from transfer.network.card import describe
from transfer.runtime import disk, params, paths
from transfer.training import fit, results, resume
from transfer.training.history import History, summary
from transfer.training.settings import Params as TrainingParams


class Params(params.Section):
    """The head, how many there are and how they are trained, and the seed of weights, dropout, order and views."""

    head: heads.Params
    heads: int = Field(ge=1, le=heads.MAX_NUMBER, description="heads whose log odds are averaged")
    training: TrainingParams
    seed: int = Field(ge=0)


def main() -> None:
    """Write artifacts/train_head/: head.keras, model.json, history.csv, metrics.json and checkpoints/."""
    settings = params.load("train_head", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    recipes = store.read_recipes(paths.artifact("extract_features"))
    classes = manifest.classes(photographs)
    inputs = store.lineage(paths.artifact("split", "manifest.csv"), recipes)
    scratch = resume.scratch_folder("train_head", settings.model_dump(), inputs, entry=Path(__file__))

    feature_map = vgg16.shape_after(vgg16.POOLED, image_size=recipes[0]["image_size"])
    head = heads.build(
        settings.head, feature_map=feature_map, classes=len(classes), seed=settings.seed, number=settings.heads
    )
    history = train(head, photographs, settings, scratch=scratch)

    scores = summary(history, settings.training)
    card = describe(classes, recipes[0], inputs, settings.model_dump(), scores)
    file = paths.artifact("train_head", "head.keras")
    results.write_run(file, head, history, metrics=scores, card=card, scratch=scratch)


def train(head: keras.Model, photographs: list[manifest.Entry], settings: Params, *, scratch: Path) -> History:
    """Train a head on pooled features, in place.

    Raises:
        DiskError: the disk has too little space for the run; nothing has been trained.
    """
    training, validation = dataset.train_and_validation(
        paths.artifact("extract_features"),
        photographs,
        part="pooled",
        batch_size=settings.training.batch_size,
        seed=settings.seed,
        pool=partial(heads.pool, pooling=settings.head.pooling),
    )
    above = heads.above_pooling(head, settings.head.pooling)
    fit.compile_model(above, settings.training, batches=len(training), counts=training.counts)
    folder = paths.artifact("train_head")
    disk.require_space(fit.required_space(above, head, settings=settings.training, scratch=scratch, results=folder))
    return fit.fit(
        above,
        training,
        validation,
        settings=settings.training,
        seed=settings.seed,
        scratch=scratch,
        name="train_head",
        exported=lambda: head,
    )
