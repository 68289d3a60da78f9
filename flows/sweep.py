"""Sweeps: one training with some params varied, each point an experiment of DVC, and a comparison of them all.

`python -m flows.sweep NAME` runs a sweep of sweeps.yaml. It works in a folder of its own, `.cache/sweep/`, on the
project's DVC cache and memo, so the workspace stays as it is, what has been computed is not computed again, and a
sweep that was stopped goes on where it was.
"""

import argparse
import contextlib
import csv
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dvc.repo import Repo
from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from flows import demo, experiments, graph, processes, reproduction, workspace
from transfer.evaluation import figures
from transfer.runtime import disk, params, paths, progress
from transfer.runtime.errors import DiskError, ParamsError
from transfer.runtime.files import link, write_text

SWEEPS = Path("sweeps.yaml")
LOCK = Path("dvc.lock")
WORKSPACE = Path(".cache/sweep")
COMPARISONS = Path("sweeps")
SCORES = ("val_loss", "val_accuracy", "best_epoch")
HEAD = "train_head"
STAGES = (HEAD, "fine_tune")  # those with a seed of a training

# in a process of its own, as the tasks import TensorFlow; one for all trials, as that takes seconds
_CHECK = """\
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from tasks.__main__ import main
from transfer.errors import ParamsError

with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    for point, _, params in json.load(sys.stdin):
        Path("params.yaml").write_text(params, encoding="utf-8")
        try:
            main()
        except ParamsError as error:
            print(f"Point `{point}`: {error}")
            sys.exit(error.exit_code)
"""

Changes = Mapping[str, Any]  # values by dotted names of params


class Sweep(params.Section):
    """What is varied, and which stage's validation scores tell what came of it."""

    stage: Literal["train_head", "fine_tune"]
    seeds: list[Annotated[int, Field(ge=0)]]
    given: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    points: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _compares(self) -> "Sweep":
        if bool(self.grid) == bool(self.points):
            raise ValueError(
                "a sweep must have either `grid` or `points`, with something in it. "
                f"Received: {'both' if self.grid else 'neither'}"
            )
        for name, values in {"seeds": self.seeds, **self.grid}.items():
            if not values or len(set(map(str, values))) < len(values):
                raise ValueError(f"`{name}` must have at least one value, and each once. Received: {values}")
        names = [point.name for point in points(self)]
        times = Counter(map(experiments.allowed, names))
        if alike := [name for name in names if times[experiments.allowed(name)] > 1]:
            raise ValueError(
                "the name of each point, in a `grid` its values in a row, must differ by letters or digits, "
                f"as experiments are named for them. Received: {', '.join(alike)}. Name them, as `points`."
            )
        return self


class StoppedError(Exception):
    """A point failed; the text is what its stage said, the exit code that stage's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Point(NamedTuple):
    """One combination of params, by the name it has in the comparison."""

    name: str
    changes: Changes


class Trial(NamedTuple):
    """A point with one seed."""

    point: str
    seed: int
    params: str  # all of its params.yaml


class Result(NamedTuple):
    """What came of a point with one seed."""

    point: str
    seed: int
    scores: Mapping[str, float]


def read(name: str) -> Sweep:
    """Read a sweep of sweeps.yaml.

    Raises:
        ParamsError: the file cannot be read, there is no such sweep, or it is none; the message says what is there
            or what is wrong.
    """
    sweeps = params.read(SWEEPS)
    if name not in sweeps:
        raise ParamsError(f"A sweep must be one of {SWEEPS}: {', '.join(map(str, sweeps))}. Received: {name!r}")
    return params.parse(name, sweeps[name], Sweep, file=SWEEPS)


def points(sweep: Sweep) -> list[Point]:
    """Every point of a sweep; those of a grid are named for their values."""
    if sweep.points:
        return [Point(name, changes) for name, changes in sweep.points.items()]
    combinations = itertools.product(*sweep.grid.values())
    return [Point(" ".join(map(str, values)), dict(zip(sweep.grid, values, strict=True))) for values in combinations]


def trials(sweep: Sweep) -> list[Trial]:
    """Every point with every seed, in the order in which they are run.

    Raises:
        ParamsError: params.yaml cannot be read, or has no param of a name that a point changes.
    """
    return [Trial(point.name, seed, _params(sweep, point, seed)) for point in points(sweep) for seed in sweep.seeds]


def _params(sweep: Sweep, point: Point, seed: int) -> str:
    document = params.read(comments=True)
    seeds = {f"{stage}.seed": seed for stage in STAGES}
    try:
        return in_yaml(changed(document, {**sweep.given, **seeds, **point.changes}))
    except ParamsError as error:
        raise ParamsError(f"Point `{point.name}`: {error}") from None


def changed(document: Any, changes: Changes) -> Any:
    """Params with some values changed, comments and order kept.

    Raises:
        ParamsError: a name is none in params.yaml.
    """
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = document
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ParamsError(f"A sweep changes params that {paths.PARAMS} has. Received: `{name}`.")
        section[last] = _in_one_line(value)
    return document


def _in_one_line(value: Any) -> Any:
    """A value as params.yaml has such values; a list below its name would push the comment behind it astray."""
    if not isinstance(value, list | dict):
        return value
    held: Any = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    held.fa.set_flow_style()
    return held


def in_yaml(document: Any) -> str:
    """Params as YAML, with their comments unless these would change what it says."""
    text, values = io.StringIO(), _plain(document)
    YAML().dump(document, text)
    with contextlib.suppress(YAMLError):
        if YAML(typ="safe", pure=True).load(text.getvalue()) == values:
            return text.getvalue()
    plain = io.StringIO()
    YAML().dump(values, plain)
    return plain.getvalue()


def _plain(value: Any) -> Any:
    """The same without comments."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def check(wanted: Sequence[Trial]) -> None:
    """Refuse what a stage would refuse hours later, when its point's turn comes.

    Raises:
        ParamsError: a section of a trial's params is not allowed; the message has all that is wrong with it.
        StoppedError: they cannot be checked.
    """
    done = subprocess.run(  # noqa: S603 - no shell, and a program of our own
        [sys.executable, "-c", _CHECK],
        env=processes.environment(),
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == ParamsError.exit_code:
        raise ParamsError(done.stdout.strip())
    if done.returncode:
        exit_code, message = reproduction.failure(done.returncode, done.stderr.splitlines())
        raise StoppedError(message, exit_code)


def run(name: str, stage: str, wanted: Sequence[Trial]) -> list[Result]:
    """Run trials in the sweep's workspace; an experiment is kept of each.

    Args:
        name: the sweep's.
        stage: whose scores tell what came of a trial.
        wanted: the trials.

    Raises:
        StoppedError: a stage failed; what was done is kept.
        GitError: Git cannot keep an experiment.
    """
    results = []
    prepare()
    files = _files() if experiments.baseline() else None
    with progress.bar(total=len(wanted), description=f"sweep {name}", unit="points") as bar:
        for trial in wanted:
            results.append(Result(trial.point, trial.seed, _scores(stage, trial.params)))
            if files:
                experiments.save(f"sweep-{name}-{trial.point}-seed-{trial.seed}", files, folder=WORKSPACE)
            bar.update()
            bar.set_postfix_str(f"{trial.point}: val_loss {results[-1].scores['val_loss']:.4f}", refresh=False)
    return results


def prepare() -> None:
    """Copy the project's code to the sweep's workspace, and have DVC share the project's cache there."""
    shutil.rmtree(WORKSPACE / paths.INBOX, ignore_errors=True)
    demo.copy(Path(), WORKSPACE)
    if LOCK.exists():
        shutil.copyfile(LOCK, WORKSPACE / LOCK)  # an experiment is a version of the whole pipeline, later stages too
    for path in demo.files(paths.INBOX):
        if not (WORKSPACE / path).exists():
            # a link to a link would be one itself, and lead elsewhere from there
            link(path.resolve(), WORKSPACE / path)
    with Repo(os.curdir) as repo:
        cache = repo.cache.local_cache_dir
    write_text(WORKSPACE / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")


def _scores(stage: str, written: str) -> dict[str, float]:
    write_text(WORKSPACE / paths.PARAMS, written)
    memo = paths.cache().resolve()  # which the user may have named relative to the folder that is left here
    with contextlib.chdir(WORKSPACE):
        _reproduce(stage, memo)
        return scores_of(stage)


def scores_of(stage: str) -> dict[str, float]:
    """The validation scores of the network that a stage handed on, in the current folder.

    Where no epoch of fine-tuning was better than the head, that is the head's, after none of its epochs.
    """
    metrics: dict[str, float] = json.loads(paths.artifact(stage, "metrics.json").read_text(encoding="utf-8"))
    if "best_epoch" not in metrics:
        return {**scores_of(HEAD), "best_epoch": 0}
    return {score: metrics[score] for score in SCORES}


def _reproduce(stage: str, memo: Path) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", stage]
    environment = workspace.environment() | {"DOGS_VS_CATS_CACHE": str(memo)}
    code, said = processes.run(command, environment, secrets={}, say=lambda _: None)
    if code:
        exit_code, message = reproduction.failure(code, said)
        raise StoppedError(message, exit_code)


def _files() -> list[Path]:
    """What an experiment has of a point: params, scores, histories, and which data and networks belong to them."""
    with contextlib.chdir(WORKSPACE):
        return [paths.PARAMS, *graph.uncached_outputs()]


def compared(results: Sequence[Result]) -> dict[str, dict[str, list[float]]]:
    """The scores of each point, one of each seed, in the sweep's order."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for score, value in result.scores.items():
            found.setdefault(result.point, {}).setdefault(score, []).append(value)
    return found


def table(sweep: Sweep, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The points as lines to read in a terminal, the lowest validation loss first; of several seeds mean and range."""
    varied = " ".join(name.rpartition(".")[2] for name in sweep.grid)
    width = max(map(len, [varied, *scores])) + 2
    spread = 18 if len(sweep.seeds) > 1 else 0
    heading = "of seeds" if spread else ""
    lines = [f"{varied:{width}}{'val_loss':>10}{heading:>{spread}}{'val_accuracy':>14}{'best epoch':>12}"]
    for name, of in sorted(scores.items(), key=lambda item: statistics.mean(item[1]["val_loss"])):
        losses = of["val_loss"]
        lines.append(
            f"{name:{width}}{statistics.mean(losses):10.4f}"
            f"{f'{min(losses):.4f} to {max(losses):.4f}' if spread else '':>{spread}}"
            f"{100 * statistics.mean(of['val_accuracy']):12.1f} %{statistics.mean(of['best_epoch']):12.0f}"
        )
    return "\n".join(lines)


def rows(results: Sequence[Result]) -> str:
    """The content of the comparison's CSV: a line a point and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", "seed", *SCORES])
    writer.writerows([result.point, result.seed, *(result.scores[score] for score in SCORES)] for result in results)
    return text.getvalue()


def picture(sweep: Sweep, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The comparison as SVG: a field of colours for two params varied together, dots for all else."""
    losses = {name: of["val_loss"] for name, of in scores.items()}
    if len(sweep.grid) == 2:
        means = iter(map(statistics.mean, losses.values()))
        down, across = sweep.grid.items()
        return figures.heat_map(
            [[next(means) for _ in across[1]] for _ in down[1]], down, across, "validation log loss"
        )
    accuracies = {name: of["val_accuracy"] for name, of in scores.items()}
    return figures.strip_plot({"validation log loss": losses, "validation accuracy": accuracies})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep for somebody at a terminal; the exit code tells what came of it."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Run a sweep and draw its comparison.")
    parser.add_argument("name", metavar="NAME", help=f"of a sweep in {SWEEPS}")
    name = parser.parse_args(arguments).name
    processes.interruptible()
    try:
        sweep = read(name)
        wanted = trials(sweep)
        check(wanted)
        with disk.space_for({WORKSPACE: 0}), workspace.held(f"sweep {name}", print, place=WORKSPACE):
            results = run(name, sweep.stage, wanted)
        scores = compared(results)
        write_text(COMPARISONS / f"{name}.csv", rows(results))
        write_text(COMPARISONS / f"{name}.svg", picture(sweep, scores))
    except (ParamsError, DiskError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (StoppedError, experiments.GitError, workspace.BusyError) as error:
        print(f"{error}\nWhat was done is kept; run the same command to go on.", file=sys.stderr)
        return error.exit_code if isinstance(error, StoppedError) else 1
    print(f"{table(sweep, scores)}\n\nPicture: {COMPARISONS / name}.svg\nTable:   {COMPARISONS / name}.csv")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
