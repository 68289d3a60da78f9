from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from baselines import models, networks

PARAMS: dict[str, Any] = YAML(typ="safe").load(Path(__file__).parents[2] / "baselines/params.yaml")


def without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the network and the augmentation of a model without some parameters, and without its training."""
    network = {name: value for name, value in section["network"].items() if name not in names}
    return {"network": network, "augmented": section["augmented"] or "augmented" in names}


@pytest.mark.parametrize(
    ("predecessor", "model", "idea"),
    [
        ("cnn", "cnn_augmented", ["augmented"]),
        ("cnn_augmented", "cnn_regularized", ["batch_normalization", "dropout"]),
        ("plain", "residual", ["skips"]),
    ],
)
def test_a_model_differs_from_its_predecessor_in_one_idea(predecessor: str, model: str, idea: list[str]) -> None:
    """In params.yaml both have the same network and images, but for the parameters that the model is named for."""
    assert PARAMS[predecessor] != PARAMS[model]
    assert without(PARAMS[predecessor], *idea) == without(PARAMS[model], *idea)


def test_plain_and_residual_networks_train_alike() -> None:
    """Both have the same training, so that they differ in the skip connections alone."""
    assert PARAMS["plain"]["training"] == PARAMS["residual"]["training"]


def test_every_model_can_be_built() -> None:
    """The parameters of every model are complete, and its network can be built for the images' size."""
    for model, section in models.FROM_SCRATCH.items():
        settings = section.model_validate(PARAMS[model])
        network = networks.build(settings.network, image_size=PARAMS["train"]["image_size"], classes=2, seed=0)
        assert network.output_shape == (None, 1)
