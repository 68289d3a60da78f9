import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from dogs_vs_cats import schema

ROOT = Path(__file__).parents[2]
FILE = ROOT / "params.schema.json"


@pytest.fixture(scope="module")
def validator() -> Any:
    """A validator of the schema."""
    return jsonschema.Draft202012Validator(schema.schema(schema.sections()))


def params() -> dict[str, Any]:
    """Return the content of params.yaml."""
    content: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
    return content


def test_the_schema_is_current() -> None:
    """params.schema.json is made from the stages' models, and params.yaml names it for editors."""
    hint = f"Run `python -m dogs_vs_cats.schema > {FILE.name}`."
    assert FILE.read_text(encoding="utf-8") == schema.text(), hint
    first = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={FILE.name}"


def test_the_project_s_parameters_are_valid(validator: Any) -> None:
    """params.yaml as it is matches the schema."""
    assert list(validator.iter_errors(params())) == []


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [("evaluate", "confidence", 95), ("train_head", "sed", 1), ("extract_features", "resizing", "stretch")],
    ids=["range", "unknown key", "unknown value"],
)
def test_mistakes_are_marked(validator: Any, stage: str, key: str, value: object) -> None:
    """An editor marks values out of range, unknown keys and unknown values."""
    changed = copy.deepcopy(params())
    changed[stage][key] = value
    assert len(list(validator.iter_errors(changed))) == 1
