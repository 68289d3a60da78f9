"""Sweep: train with varied parameters, save each point as an experiment of DVC, and compare them all.

`python -m flows.sweep NAME` runs a sweep of sweeps.yaml. It works in a folder of its own, `.cache/sweep/`, with the
project's DVC cache and feature cache: the workspace does not change, nothing is computed twice, and a sweep that was
stopped continues.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dvc.repo import Repo

from flows import (
    comparison,
    experiments,
    git,
    graph,
    parameters,
    processes,
    reproduction,
    sandbox,
    sweep_settings,
    workspace,
)
from flows.comparison import SCORES, Result
from flows.sweep_settings import HEAD, SWEEPS, Trial
from transfer.runtime import disk, paths, progress
from transfer.runtime.errors import AccessError, DataError, ParamsError, StageError
from transfer.runtime.files import link, write_text

LOCK = Path("dvc.lock")
WORKSPACE = Path(".cache/sweep")
COMPARISONS = Path("sweeps")
_PERMANENT = {DataError.exit_code, AccessError.exit_code, ParamsError.exit_code}  # the same command fails again


class StoppedError(Exception):
    """A point failed; the text is its stage's message, the exit code its stage's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def check(trials: Sequence[Trial]) -> None:
    """Check the parameters of all trials before the first one runs.

    Raises:
        ParamsError: parameters of a point are not allowed; the message has a line for each mistake.
        StageError: the check itself failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        points = {trial.point: trial for trial in trials}  # one seed of each
        files = {str(Path(folder, f"{experiments.allowed(point)}.yaml")): point for point in points}
        for file, point in files.items():
            Path(file).write_text(points[point].params, encoding="utf-8")
        try:
            parameters.check(map(Path, files))
        except ParamsError as error:
            mistakes = [line.partition(": ") for line in str(error).splitlines()]
            raise ParamsError("\n".join(f"Point `{files[file]}`: {text}" for file, _, text in mistakes)) from None


def run(name: str, stage: str, trials: Sequence[Trial]) -> list[Result]:
    """Run trials in the sweep's workspace, and save each as an experiment.

    Args:
        name: the name of the sweep.
        stage: the stage whose scores are compared.
        trials: the trials.

    Raises:
        StoppedError: a stage failed; the trials before it are saved.
        GitError: Git cannot save an experiment.
    """
    results = []
    prepare()
    files = _files() if experiments.baseline() else None
    with progress.bar(total=len(trials), description=f"sweep {name}", unit="points") as bar:
        for trial in trials:
            results.append(Result(trial.point, trial.seed, _scores(stage, trial.params)))
            if files:
                experiments.save(f"sweep-{name}-{trial.point}-seed-{trial.seed}", files, folder=WORKSPACE)
            bar.update()
            bar.set_postfix_str(f"{trial.point}: val_loss {results[-1].scores['val_loss']:.4f}", refresh=False)
    return results


def prepare() -> None:
    """Copy the project's code and inbox to the sweep's workspace, where DVC uses the project's cache."""
    shutil.rmtree(WORKSPACE / paths.INBOX, ignore_errors=True)
    sandbox.copy(Path(), WORKSPACE)
    if LOCK.exists():
        shutil.copyfile(LOCK, WORKSPACE / LOCK)  # an experiment holds the whole pipeline, later stages too
    for path in sandbox.files(paths.INBOX):
        if not (WORKSPACE / path).exists():
            # a hard link to a symbolic link would be a symbolic link, whose relative target is elsewhere from there
            link(path.resolve(), WORKSPACE / path)
    with Repo(os.curdir) as repo:
        cache = repo.cache.local_cache_dir
    write_text(WORKSPACE / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")


def _scores(stage: str, params: str) -> dict[str, float]:
    write_text(WORKSPACE / paths.PARAMS, params)
    cache = paths.cache().resolve()  # it may be relative to the project's folder, which is not the stage's
    with contextlib.chdir(WORKSPACE):
        variables = {"DOGS_VS_CATS_CACHE": str(cache)}
        outcome = reproduction.reproduce(stage, upstream=True, variables=variables, secrets={}, log=lambda _: None)
        if outcome.exit_code:
            raise StoppedError(outcome.message, outcome.exit_code)
        return scores_of(stage)


def scores_of(stage: str) -> dict[str, float]:
    """Return the validation scores of the network that a stage has selected, in the current folder.

    If no epoch of fine-tuning was better than the head, these are the head's scores, with 0 as best epoch.
    """
    metrics: dict[str, float] = json.loads(paths.artifact(stage, "metrics.json").read_text(encoding="utf-8"))
    if "best_epoch" not in metrics:
        return {**scores_of(HEAD), "best_epoch": 0}
    return {score: metrics[score] for score in SCORES}


def _files() -> list[Path]:
    """Return the files of a point's experiment: params.yaml, dvc.lock, scores and histories."""
    with contextlib.chdir(WORKSPACE):
        return [paths.PARAMS, *graph.uncached_outputs()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from a command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description="Run a sweep and draw its comparison.")
    parser.add_argument("name", metavar="NAME", help=f"of a sweep in {SWEEPS}")
    name = parser.parse_args(arguments).name
    processes.interrupt_on_signals()
    try:
        compared = _compare(name)
        picture, table = (paths.displayed(COMPARISONS / f"{name}.{kind}") for kind in ("svg", "csv"))
        print(f"{compared}\n\nPicture: {picture}\nTable:   {table}")
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (StoppedError, git.GitError, workspace.WorkspaceBusyError) as error:
        code = error.exit_code if isinstance(error, StoppedError) else 1
        advice = "" if code in _PERMANENT else "; run the same command to continue"
        print(f"{error}\nCompleted points are saved{advice}.", file=sys.stderr)
        return code
    return 0


def _compare(name: str) -> str:
    """Run a sweep, write its comparison, and return it as a text table."""
    sweep = sweep_settings.read(name)
    trials = sweep_settings.trials(sweep)
    check(trials)
    if not LOCK.exists():
        raise DataError(f"A sweep varies the parameters of a run. Received: no {LOCK}. Run `dogs-vs-cats run` first.")
    with disk.space_for({WORKSPACE: 0}), workspace.exclusive(f"sweep {name}", print, workspace=WORKSPACE):
        results = run(name, sweep.stage, trials)
    scores = comparison.by_point(results)
    write_text(COMPARISONS / f"{name}.csv", comparison.csv_text(results))
    write_text(COMPARISONS / f"{name}.svg", comparison.picture(sweep, scores))
    return comparison.table(sweep, scores)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
