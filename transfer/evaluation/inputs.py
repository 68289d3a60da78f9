"""Inputs: what the stages before an evaluation have made, checked to belong together."""

from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation import consistency
from transfer.evaluation.consistency import TrainedNetwork
from transfer.evaluation.scores import Labels
from transfer.features import store
from transfer.images import manifest
from transfer.network.card import verified_card
from transfer.runtime import paths
from transfer.runtime.errors import rerun_hint
from transfer.training import history

HEAD, TUNED = "train_head", "fine_tune"  # the stages whose networks are evaluated, in the order in which they run
NETWORK_FILES = {HEAD: "head.keras", TUNED: "model.keras"}


class Inputs(NamedTuple):
    """The inputs of the stage `evaluate`, except the photographs' files, the cached activations and the networks.

    Attributes:
        photographs: the manifest's entries of all splits.
        test: the entries of the test split, by path.
        rejected: the candidates that `subsample` rejected.
        classes: class names, in the order of their numbers.
        recipes: the recipe of each view's features.
        lineage: hashes of the manifest and of the recipes of views, by name.
        trained: the network of each training stage, by the stage.
        mirrored: the recipe of the features of mirror images, if there are any.
    """

    photographs: list[manifest.Entry]
    test: list[manifest.Entry]
    rejected: list[manifest.Rejected]
    classes: list[str]
    recipes: list[store.Recipe]
    lineage: dict[str, Any]
    trained: dict[str, TrainedNetwork]
    mirrored: store.Recipe | None = None

    @property
    def labels(self) -> Labels:
        """The class numbers of the test photographs."""
        return np.array([self.classes.index(photograph.class_name) for photograph in self.test])


def load() -> Inputs:
    """Read the inputs and check that they belong together.

    Raises:
        DataError: a file is damaged, a class has no test photograph, or a network was trained on other inputs.
    """
    manifest_file = paths.artifact("split", "manifest.csv")
    photographs = manifest.read(manifest_file)
    recipes = store.read_recipes(paths.artifact("extract_features"))
    inputs = Inputs(
        photographs=photographs,
        test=sorted((entry for entry in photographs if entry.split == "test"), key=lambda entry: entry.path),
        rejected=manifest.read_rejected(paths.artifact("subsample", "rejected.csv")),
        classes=manifest.classes(photographs),
        recipes=recipes,
        lineage=store.lineage(manifest_file, recipes),
        trained={stage: _trained(stage) for stage in NETWORK_FILES},
        mirrored=store.read_mirrored_recipe(paths.artifact("extract_features")),
    )
    consistency.check_classes(inputs.test, inputs.classes)
    head, tuned = inputs.trained[HEAD], inputs.trained[TUNED]
    consistency.check_provenance(HEAD, head, inputs.classes, inputs.lineage)
    of_tuned = store.lineage(manifest_file, recipes, mirrored=inputs.mirrored, head=head.file)
    # without mirror images, a network that mirrors cannot be scored
    consistency.check_provenance(TUNED, tuned, inputs.classes, {"mirror_images": None, **of_tuned})
    return inputs


def _trained(stage: str) -> TrainedNetwork:
    file = paths.artifact(stage, NETWORK_FILES[stage])
    card = verified_card(file, hint=rerun_hint(stage))
    return TrainedNetwork(file, card, history.read_history(paths.artifact(stage, "history.csv")))
