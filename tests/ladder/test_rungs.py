from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ladder import networks, rungs

PARAMS: dict[str, Any] = YAML(typ="safe").load(Path(__file__).parents[2] / "ladder/params.yaml")


def without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """A rung's network and view of the pictures, but for some params; how long it is trained does not count."""
    network = {name: value for name, value in section["network"].items() if name not in names}
    return {"network": network, "augmented": section["augmented"] or "augmented" in names}


@pytest.mark.parametrize(
    ("lower", "upper", "step"),
    [
        ("cnn", "cnn_augmented", ["augmented"]),
        ("cnn_augmented", "cnn_regularized", ["batch_normalization", "dropout"]),
        ("plain", "residual", ["skips"]),
    ],
)
def test_a_rung_differs_from_the_one_below_by_its_idea_alone(lower: str, upper: str, step: list[str]) -> None:
    """What params.yaml asks for is the same network on the same pictures, but for what the rung's name says."""
    assert PARAMS[lower] != PARAMS[upper]
    assert without(PARAMS[lower], *step) == without(PARAMS[upper], *step)


def test_twins_are_trained_alike() -> None:
    """The plain and the residual network have the same training, so that the skips are all there is between them."""
    assert PARAMS["plain"]["training"] == PARAMS["residual"]["training"]


def test_every_rung_can_be_built() -> None:
    """The params of every rung are complete, and its network takes the pictures' size."""
    for rung, kind in rungs.FROM_NOTHING.items():
        settings = kind.model_validate(PARAMS[rung])
        network = networks.build(settings.network, image_size=PARAMS["train"]["image_size"], classes=2, seed=0)
        assert network.output_shape == (None, 1)
