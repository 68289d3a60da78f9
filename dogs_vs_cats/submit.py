"""Submit: the command that predicts the test photographs of a competition."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dogs_vs_cats import options, workspace


class Competition(StrEnum):
    """A competition of cats and dogs at Kaggle."""

    LABELS = "dogs-vs-cats"
    PROBABILITIES = "dogs-vs-cats-redux-kernels-edition"


Archive = Annotated[
    Path | None, typer.Argument(metavar="ARCHIVE", help="Of the competition; it is downloaded if none is named.")
]
CompetitionOption = Annotated[
    Competition, typer.Option(help="The first one, which wants labels, or the later one, which wants probabilities.")
]
Clip = Annotated[
    float | None,
    typer.Option(
        metavar="BOUND",
        help="The least distance of probabilities from 0 and 1; by default the best for the validation photographs.",
    ),
]


def submit(
    archive: Archive = None,
    *,
    competition: CompetitionOption = Competition.LABELS,
    model: options.ModelName = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="For the predictions.")] = Path("submission.csv"),
    clip: Clip = None,
    accept_unreadable: Annotated[
        bool, typer.Option("--accept-unreadable", help="Give photographs that cannot be read the probability 0.5.")
    ] = False,
    send: Annotated[
        str | None, typer.Option(metavar="MESSAGE", help="Send the file to Kaggle, with this description.")
    ] = None,
) -> None:
    """Predict a competition's test photographs, for Kaggle."""
    project = workspace.find(Path.cwd()) or workspace.INSTALLED
    given = {"--competition": competition, "--output": output, "--model": model, "--clip": clip, "--send": send}
    arguments = options.arguments(given) + (["--accept-unreadable"] if accept_unreadable else [])
    arguments += ["--", str(archive)] if archive else []
    workspace.replace_here(project, "transfer.prediction.submit", *arguments)
