"""Train a head on the cached features of the frozen base."""

from functools import partial

from pydantic import Field

from transfer.features import dataset, store
from transfer.images import manifest
from transfer.network import heads, vgg16
from transfer.network.card import describe
from transfer.runtime import disk, files, params, paths
from transfer.training import fit


class Params(params.Section):
    """The head, how it is trained, and the seed of its first weights, of dropout, order and views."""

    head: heads.Params
    training: fit.Params
    seed: int = Field(ge=0)


def main() -> None:
    """Write artifacts/train_head/: head.keras, model.json, history.csv, metrics.json and checkpoints/."""
    settings = params.load("train_head", Params)
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    recipes = store.read_recipes(paths.artifact("extract_features"))
    classes = manifest.classes(photographs)
    inputs = store.lineage(paths.artifact("split", "manifest.csv"), recipes)
    scratch = fit.scratch("train_head", settings.model_dump(), inputs)

    train, validation = dataset.train_and_validation(
        paths.artifact("extract_features"),
        photographs,
        part="pooled",
        batch_size=settings.training.batch_size,
        seed=settings.seed,
        pool=partial(heads.pool, pooling=settings.head.pooling),
    )
    feature_map = vgg16.shape_after(vgg16.POOLED, image_size=recipes[0]["image_size"])
    head = heads.build(settings.head, feature_map=feature_map, classes=len(classes), seed=settings.seed)
    trained = heads.above_pooling(head, settings.head.pooling)
    fit.compile_model(trained, settings.training, batches=len(train))
    folder = paths.artifact("train_head")
    disk.require_space(fit.needs(trained, head, settings=settings.training, scratch=scratch, results=folder))
    history = fit.fit(
        trained,
        train,
        validation,
        settings=settings.training,
        seed=settings.seed,
        scratch=scratch,
        name="train_head",
        whole=head,
    )

    scores = fit.summary(history, settings.training)
    card = describe(classes, recipes[0], inputs, settings.model_dump(), scores)
    fit.write(folder / "head.keras", head, history, metrics=scores, card=card)
    fit.write_checkpoints(folder / "checkpoints", scratch)
    files.remove_folder(scratch.parent)  # of abandoned trainings too
