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
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dvc.repo import Repo
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from flows import demo, experiments, graph, processes, reproduction, workspace
from transfer import figures, outputs, params, paths, progress
from transfer.errors import ParamsError

SWEEPS = Path("sweeps.yaml")
LOCK = Path("dvc.lock")
WORKSPACE = Path(".cache/sweep")
COMPARISONS = Path("sweeps")
SCORES = ("val_loss", "val_accuracy", "best_epoch")
HEAD = "train_head"
STAGES = (HEAD, "fine_tune")  # those with a seed of a training

Changes = Mapping[str, Any]  # values by dotted names of params


class Sweep(params.Section):
    """What is varied, and which stage's validation scores tell what came of it."""

    stage: Literal["train_head", "fine_tune"]
    seeds: list[int] = Field(min_length=1)
    given: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    points: dict[str, dict[str, Any]] = Field(default_factory=dict)


class StoppedError(Exception):
    """A point failed; the text is what its stage said."""


class Point(NamedTuple):
    """One combination of params, by the name it has in the comparison."""

    name: str
    changes: Changes


class Result(NamedTuple):
    """What came of a point with one seed."""

    point: str
    seed: int
    scores: Mapping[str, float]


def read(name: str) -> Sweep:
    """Read a sweep of sweeps.yaml.

    Raises:
        ParamsError: there is no such sweep, or it is none; the message says what is there or what is wrong.
    """
    sweeps = YAML(typ="safe", pure=True).load(SWEEPS)
    if name not in sweeps:
        raise ParamsError(f"A sweep must be one of {SWEEPS}: {', '.join(sweeps)}. Received: {name!r}")
    found = params.parse(name, sweeps[name], Sweep)
    if bool(found.grid) == bool(found.points):
        raise ParamsError(f"`{name}` in {SWEEPS} must have either `grid` or `points`, with something in it.")
    return found


def points(sweep: Sweep) -> list[Point]:
    """Every point of a sweep; those of a grid are named for their values."""
    if sweep.points:
        return [Point(name, changes) for name, changes in sweep.points.items()]
    combinations = itertools.product(*sweep.grid.values())
    return [Point(" ".join(map(str, values)), dict(zip(sweep.grid, values, strict=True))) for values in combinations]


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
    text, values = io.StringIO(), json.loads(json.dumps(document))
    YAML().dump(document, text)
    with contextlib.suppress(YAMLError):
        if YAML(typ="safe", pure=True).load(text.getvalue()) == values:
            return text.getvalue()
    plain = io.StringIO()
    YAML().dump(values, plain)
    return plain.getvalue()


def run(name: str, sweep: Sweep) -> list[Result]:
    """Run every point of a sweep with every seed, in the sweep's workspace; an experiment is kept of each.

    Raises:
        StoppedError: a stage failed; what was done is kept.
        GitError: Git cannot keep an experiment.
    """
    results = []
    wanted = [(point, seed) for point in points(sweep) for seed in sweep.seeds]
    prepare()
    files = _files() if experiments.baseline() else None
    with progress.bar(total=len(wanted), description=f"sweep {name}", unit="points") as bar:
        for point, seed in wanted:
            results.append(Result(point.name, seed, _scores(sweep, point, seed)))
            if files:
                experiments.save(f"sweep-{name}-{point.name}-seed-{seed}", files, folder=WORKSPACE)
            bar.update()
            bar.set_postfix_str(f"{point.name}: val_loss {results[-1].scores['val_loss']:.4f}", refresh=False)
    return results


def prepare() -> None:
    """Copy the project's code to the sweep's workspace, and have DVC share the project's cache there."""
    shutil.rmtree(WORKSPACE / "inbox", ignore_errors=True)
    demo.copy(Path(), WORKSPACE)
    if LOCK.exists():
        shutil.copyfile(LOCK, WORKSPACE / LOCK)  # an experiment is a version of the whole pipeline, later stages too
    for path in filter(Path.is_file, Path("inbox").rglob("*")):
        if not (WORKSPACE / path).exists():
            outputs.link(path, WORKSPACE / path)
    with Repo(os.curdir) as repo:
        cache = repo.cache.local_cache_dir
    outputs.write_text(WORKSPACE / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")


def _scores(sweep: Sweep, point: Point, seed: int) -> dict[str, float]:
    seeds = {f"{stage}.seed": seed for stage in STAGES}
    document = changed(YAML().load(paths.PARAMS), {**sweep.given, **seeds, **point.changes})
    outputs.write_text(WORKSPACE / paths.PARAMS, in_yaml(document))
    with contextlib.chdir(WORKSPACE):
        _reproduce(sweep.stage)
        return scores_of(sweep.stage)


def scores_of(stage: str) -> dict[str, float]:
    """The validation scores of the network that a stage handed on, in the current folder.

    Where no epoch of fine-tuning was better than the head, that is the head's, after none of its epochs.
    """
    metrics: dict[str, float] = json.loads(paths.artifact(stage, "metrics.json").read_text(encoding="utf-8"))
    if "best_epoch" not in metrics:
        return {**scores_of(HEAD), "best_epoch": 0}
    return {score: metrics[score] for score in SCORES}


def _reproduce(stage: str) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", stage]
    code, said = processes.run(command, environment(), secrets={}, say=lambda _: None)
    if code:
        _, message = reproduction.failure(code, said)
        raise StoppedError(message)


def environment() -> dict[str, str]:
    """The variables DVC is started with: rows of features come from the project's own memo."""
    memo = str((Path(os.pardir) / os.pardir / paths.WORKSPACE_CACHE).resolve())
    return {"DOGS_VS_CATS_CACHE": memo} | workspace.environment()


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
        return figures.field([[next(means) for _ in across[1]] for _ in down[1]], down, across, "validation log loss")
    accuracies = {name: of["val_accuracy"] for name, of in scores.items()}
    return figures.dots({"validation log loss": losses, "validation accuracy": accuracies})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep for somebody at a terminal; the exit code tells what came of it."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Run a sweep and draw its comparison.")
    parser.add_argument("name", metavar="NAME", help=f"of a sweep in {SWEEPS}")
    name = parser.parse_args(arguments).name
    processes.interruptible()
    try:
        sweep = read(name)
        with workspace.held(f"sweep {name}", print, place=WORKSPACE):
            results = run(name, sweep)
    except ParamsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (StoppedError, experiments.GitError, workspace.BusyError) as error:
        print(f"{error}\nWhat was done is kept; run the same command to go on.", file=sys.stderr)
        return 1
    scores = compared(results)
    outputs.write_text(COMPARISONS / f"{name}.csv", rows(results))
    outputs.write_text(COMPARISONS / f"{name}.svg", picture(sweep, scores))
    print(f"{table(sweep, scores)}\n\nPicture: {COMPARISONS / name}.svg\nTable:   {COMPARISONS / name}.csv")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
