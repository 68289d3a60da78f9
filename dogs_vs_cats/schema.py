"""Schema: params.yaml as JSON Schema, for editors: `python -m dogs_vs_cats.schema > params.schema.json`."""

import argparse
import importlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from tasks.__main__ import stages


def schema(names: Iterable[str]) -> dict[str, Any]:
    """Return the JSON Schema of a file with a section for each of these stages."""
    sections: dict[str, Any] = {name: (importlib.import_module(f"tasks.{name}").Params, ...) for name in names}
    model: type[BaseModel] = create_model("Parameters", __config__=ConfigDict(extra="forbid"), **sections)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def text() -> str:
    """Return the content of params.schema.json."""
    return json.dumps(schema(stages()), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Print the schema."""
    argparse.ArgumentParser(
        prog="python -m dogs_vs_cats.schema", description="Print the JSON Schema of params.yaml."
    ).parse_args()
    print(text(), end="")


if __name__ == "__main__":
    main()
