"""Options: those of predictions with their help, and as arguments of the module that a command starts."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Answer(StrEnum):
    """When a prediction is answered with a class."""

    AUTO = "auto"
    ALWAYS = "always"


class Output(StrEnum):
    """A format of predictions."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


Photographs = Annotated[
    list[str], typer.Argument(metavar="PHOTOGRAPH...", help="Files, folders, patterns in quotes, zip archives, or -.")
]
PredictionFormat = Annotated[
    Output | None, typer.Option("--format", help="Of the predictions; by default table in a terminal, csv elsewhere.")
]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A network with its model.json beside it, or a version such as v2.0.0; by default the version in "
        "production, or else the newest network.",
    ),
]
AnswerChoice = Annotated[
    Answer | None, typer.Option(help="always: a class for every photograph, never `not sure` or `none of these`.")
]
HeatMapFolder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write a heat map of each photograph to this folder.")
]
LeastCertain = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Only the N photographs to label next: least certain, and different from each other."
    ),
]
Sheet = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --least-certain: write these photographs to a JPEG.")
]


def arguments(given: Mapping[str, object]) -> list[str]:
    """Return options and their values as arguments of a command; those that are None were not given and are left out.

    Args:
        given: the value of each option, by its name with hyphens.
    """
    return [f"{option}={value}" for option, value in given.items() if value is not None]  # a value may begin with -
