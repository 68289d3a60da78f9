"""Schema: params.yaml as JSON Schema, for editors: `python -m dogs_vs_cats.schema > params.schema.json`."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from tasks.__main__ import sections


def schema(models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the JSON Schema of a file with these sections, by their names."""
    fields: dict[str, Any] = {name: (model, ...) for name, model in models.items()}
    model: type[BaseModel] = create_model("Parameters", __config__=ConfigDict(extra="forbid"), **fields)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def text() -> str:
    """Return the content of params.schema.json."""
    return json.dumps(schema(sections()), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Print the schema."""
    argparse.ArgumentParser(
        prog="python -m dogs_vs_cats.schema", description="Print the JSON Schema of params.yaml."
    ).parse_args()
    print(text(), end="")


if __name__ == "__main__":
    main()
