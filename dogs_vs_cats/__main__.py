"""The command `dogs-vs-cats`: each subcommand starts a module of the project and ends with its exit code.

Prefect, DVC and TensorFlow are imported only by the subcommands that need them, so that help and completion are quick.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dogs_vs_cats import hints, options, workspace
from dogs_vs_cats import submit as submit_module
from transfer.runtime import paths, stage
from transfer.runtime.errors import StageError

NAME = "dogs-vs-cats"
OPTIONS = ("-h", "--help", "--install-completion", "--show-completion")  # without a subcommand

app = typer.Typer(
    help="Classify photographs by transfer learning: run the pipeline, read its scores, predict.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def stage_names() -> list[str]:
    """Return the stages that the shell's completion offers: those of the project around the current folder."""
    folder = workspace.find(Path.cwd())
    return sorted(path.stem for path in (folder / "tasks").glob("[a-z]*.py")) if folder else []


def sweep_names() -> list[str]:
    """Return the sweeps that the shell's completion offers."""
    folder = workspace.find(Path.cwd())
    lines = (folder / "sweeps.yaml").read_text(encoding="utf-8").splitlines() if folder else []
    return [line.rstrip(": ") for line in lines if line[:1].isalpha()]


Stages = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STAGE]...",
        help="Bring these stages and those they need up to date; all if none is named.",
        autocompletion=stage_names,
    ),
]
SweepName = Annotated[str, typer.Argument(metavar="NAME", help="In sweeps.yaml.", autocompletion=sweep_names)]
OnWorkers = Annotated[bool, typer.Option("--on-workers", help="On the workers that `worker --sweeps` has started.")]
OfSweeps = Annotated[bool, typer.Option("--sweeps", help="Take points of sweeps, one at a time, not scheduled runs.")]


@app.command()
def run(
    stages: Stages = None,
    *,
    flow: Annotated[
        bool, typer.Option("--flow", help="As a Prefect flow: with retries, a page of the run, and saved results.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="With --flow: run the named stages anyway.")] = False,
    push: Annotated[bool, typer.Option("--push", help="With --flow: send data and results to the remotes.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="With --flow: put the network into production if it is better.")
    ] = False,
) -> None:
    """Check all parameters, then run the stages that have changed."""
    folder, named = workspace.current(), stages or []
    if flow:
        given = {"--force": force, "--push": push, "--promote": promote}
        options = [option for option, chosen in given.items() if chosen]
        workspace.replace(folder, "flows.pipeline", *options, *named)
    if force or push or promote:
        raise typer.BadParameter(
            f"`--force`, `--push` and `--promote` need `--flow`, as in `{NAME} run --flow --push`."
        )
    _reproduce(folder, *named)
    print(hints.keep(folder), end="")


@app.command()
def stages() -> None:
    """List the stages, whether each is up to date, and its work."""
    from dogs_vs_cats import status  # noqa: PLC0415 - imports DVC

    print(status.table(workspace.current()))


@app.command()
def scores(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REVISION] [REVISION]",
            help="A revision of Git or an experiment to compare with the workspace, or two to compare with each other.",
        ),
    ] = None,
) -> None:
    """Show the scores of both networks, or compare two versions."""
    from dogs_vs_cats import scores as comparison  # noqa: PLC0415 - imports scikit-learn

    if len(revisions or []) > 2:
        raise typer.BadParameter(f"At most two revisions can be compared. Received: {len(revisions or [])}.")
    folder = workspace.current()
    print(comparison.compare(folder, *revisions) if revisions else comparison.show(folder))


@app.command()
def predict(
    photographs: options.Photographs,
    *,
    output: options.PredictionFormat = None,
    model: options.ModelName = None,
    answer: options.AnswerChoice = None,
    heatmaps: options.HeatMapFolder = None,
    least_certain: options.LeastCertain = None,
    sheet: options.Sheet = None,
) -> None:
    """Predict the classes of photographs, in any folder."""
    project = workspace.find(Path.cwd()) or workspace.INSTALLED
    given = {
        "--model": model,
        "--format": output,
        "--answer": answer,
        "--heatmaps": heatmaps,
        "--least-certain": least_certain,
        "--sheet": sheet,
    }
    workspace.replace_here(project, "transfer.prediction", *options.arguments(given), "--", *photographs)


@app.command()
def correct(
    marked: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A copy of artifacts/evaluate/suspects.csv with decisions: a class or `exclude`."
        ),
    ],
) -> None:
    """Add the decisions about suspected labels to corrections.csv."""
    from dogs_vs_cats import correct as corrector  # noqa: PLC0415 - imports Pillow

    with stage.errors_in_one_line():
        print(corrector.correct(workspace.current(), marked))


submit = app.command()(submit_module.submit)


@app.command()
def page(
    *,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Of this machine; 0 for any free one. 8484 by default.")
    ] = None,
    model: options.ModelName = None,
) -> None:
    """Serve a page to try a network in a browser, until Ctrl-C."""
    project = workspace.find(Path.cwd()) or workspace.INSTALLED
    arguments = options.arguments({"--port": port, "--model": model})
    workspace.replace_here(project, "transfer.prediction.page", *arguments)


@app.command()
def sweep(name: SweepName, *, on_workers: OnWorkers = False) -> None:
    """Train with varied parameters, and compare the results."""
    workspace.replace(workspace.current(), "flows.sweep", name, *(["--on-workers"] if on_workers else []))


@app.command()
def promote(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A saved run, the last one by default; with --rollback, a version."),
    ] = None,
    *,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Put an earlier version into production: NAME, or the one before.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what is and was in production, and why.")] = False,
) -> None:
    """Put the network of a saved run into production if it is better."""
    options = [option for option, chosen in (("--rollback", rollback), ("--show", show)) if chosen]
    workspace.replace(workspace.current(), "flows.promote", *options, *([name] if name else []))


@app.command()
def baselines() -> None:
    """Train simpler networks to compare with, after a run."""
    folder = workspace.current()
    if not (folder / paths.artifact("evaluate", "report.html")).exists():
        raise hints.too_early("The baselines are compared with the pipeline's networks.")
    _reproduce(folder, "baselines/dvc.yaml")
    tables = [folder / paths.artifact("baselines", name, "table.md") for name in ("compare", "learn_digits")]
    print("\n".join(table.read_text(encoding="utf-8") for table in tables), end="")


@app.command()
def demo() -> None:
    """Run the pipeline on drawings of cats and dogs, in .cache/demo/."""
    workspace.replace(workspace.current(), "flows.demo")


@app.command()
def serve(
    *,
    on_arrival: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            envvar="DOGS_VS_CATS_ON_ARRIVAL",
            help="Start a run when photographs have arrived and the inbox has not changed for SECONDS.",
        ),
    ] = None,
) -> None:
    """Run Prefect's server, schedule and worker until Ctrl-C."""
    options = ["--on-arrival", str(on_arrival)] if on_arrival else []
    workspace.replace(workspace.current(), "flows.serve", *options)


@app.command()
def worker(*, sweeps: OfSweeps = False) -> None:
    """Run a worker for the Prefect server at PREFECT_API_URL.

    Without that variable, it works for the server of `make serve` on this machine.
    """
    workspace.replace(workspace.current(), "flows.worker", *(["--sweeps"] if sweeps else []))


@app.command()
def push(
    experiment: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="NAME REMOTE", help="Send an experiment to a remote of Git, too."),
    ] = None,
) -> None:
    """Send data, models and earlier runs to DVC's remote."""
    options = ("--experiment", *experiment) if experiment else ()
    workspace.replace(workspace.current(), "flows.remote", "push", *options)


def _reproduce(folder: Path, *targets: str) -> None:
    """Check the workspace, remove entries of killed processes from DVC's lock file, check all parameters, and run DVC.

    A child that fails has printed the reason; this process then ends with its exit code.
    """
    for module, *arguments in (("flows.preconditions",), ("tasks", "--check"), ("dvc", "repro", *targets)):
        code = workspace.run(folder, module, *arguments)
        if code:
            raise typer.Exit(code)


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name=NAME)
    except StageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
