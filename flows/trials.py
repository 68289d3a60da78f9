"""Trials: train a point of a sweep with one seed, and keep it as an experiment of DVC.

They are trained in a folder of their own, `.cache/sweep/`, with the project's DVC cache and feature cache: the
workspace does not change, and nothing is computed twice.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from dvc.repo import Repo

from flows import experiments, git, graph, reproduction, sandbox, workspace
from flows.comparison import SCORES, Result
from flows.sweep_settings import HEAD, Trial
from transfer.runtime import disk, paths, progress
from transfer.runtime.files import link, write_text

LOCK = Path("dvc.lock")
WORKSPACE = Path(".cache/sweep")


class StoppedError(Exception):
    """A point failed; the text is its stage's message, the exit code its stage's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(name: str, stage: str, trials: Sequence[Trial]) -> list[Result]:
    """Train trials here, one after another, and save each as an experiment.

    Args:
        name: the name of the sweep.
        stage: the stage whose scores are compared.
        trials: the trials.

    Raises:
        StoppedError: a stage failed; the trials before it are saved.
        GitError: Git cannot save an experiment.
        WorkspaceBusyError: another sweep has used the sweep's workspace for an hour.
    """
    results = []
    with disk.space_for({WORKSPACE: 0}), workspace.exclusive(f"sweep {name}", print, workspace=WORKSPACE):
        prepare()
        files = outputs() if experiments.baseline() else None
        with progress.bar(total=len(trials), description=f"sweep {name}", unit="points") as bar:
            for trial in trials:
                results.append(Result(trial.point, trial.seed, _scores(stage, trial.params)))
                if files:
                    experiments.save(experiment(name, trial), files, folder=WORKSPACE)
                bar.update()
                bar.set_postfix_str(f"{trial.point}: val_loss {results[-1].scores['val_loss']:.4f}", refresh=False)
    return results


def experiment(name: str, trial: Trial) -> str:
    """Return the name of the experiment of a sweep's trial."""
    return experiments.allowed(f"sweep-{name}-{trial.point}-seed-{trial.seed}")


def prepare() -> None:
    """Copy the project's code and inbox to the sweep's workspace, where DVC uses the project's cache and remotes."""
    shutil.rmtree(WORKSPACE / paths.INBOX, ignore_errors=True)
    sandbox.copy(Path(), WORKSPACE)
    if LOCK.exists():
        shutil.copyfile(LOCK, WORKSPACE / LOCK)  # an experiment holds the whole pipeline, later stages too
    for path in sandbox.files(paths.INBOX):
        if not (WORKSPACE / path).exists():
            # a hard link to a symbolic link would be a symbolic link, whose relative target is elsewhere from there
            link(path.resolve(), WORKSPACE / path)
    write_text(WORKSPACE / ".dvc/config.local", _places())


def _places() -> str:
    """Return the part of DVC's configuration that has paths, which may be relative to the project's folder."""
    with Repo(os.curdir) as repo:
        remotes = {name: remote["url"] for name, remote in repo.config["remote"].items() if "url" in remote}
        sections = {"cache": ("dir", repo.cache.local_cache_dir)}
        if default := repo.config["core"].get("remote"):
            sections["core"] = ("remote", default)
    sections |= {f"'remote \"{name}\"'": ("url", url) for name, url in remotes.items()}
    return "".join(f"[{section}]\n    {key} = {value}\n" for section, (key, value) in sections.items())


def _scores(stage: str, params: str) -> dict[str, float]:
    write_text(WORKSPACE / paths.PARAMS, params)
    cache = paths.cache().resolve()  # it may be relative to the project's folder, which is not the stage's
    with contextlib.chdir(WORKSPACE):
        variables = {"DOGS_VS_CATS_CACHE": str(cache)}
        outcome = reproduction.reproduce(stage, upstream=True, variables=variables, secrets={}, log=lambda _: None)
        if outcome.exit_code:
            raise StoppedError(outcome.message, outcome.exit_code)
        return scores_of(stage, lambda path: path.read_text(encoding="utf-8"))


def scores_of(stage: str, read: Callable[[Path], str]) -> dict[str, float]:
    """Return the validation scores of the network that a stage has selected.

    If no epoch of fine-tuning was better than the head, these are the head's scores, with 0 as best epoch.

    Args:
        stage: its name.
        read: returns the content of a file of the workspace in which the stage has run.
    """
    metrics: dict[str, float] = json.loads(read(paths.artifact(stage, "metrics.json")))
    if "best_epoch" not in metrics and stage != HEAD:
        return {**scores_of(HEAD, read), "best_epoch": 0}
    return {score: metrics[score] for score in SCORES}


def saved_scores(commit: str, stage: str, params: str) -> dict[str, float] | None:
    """Return the scores in an experiment; None if it has other parameters or other code, or lacks scores.

    Args:
        commit: the experiment's.
        stage: the stage whose scores are compared.
        params: the content of params.yaml.
    """
    read = partial(experiments.read, commit)
    with suppress(git.GitError, ValueError, LookupError):
        if read(paths.PARAMS) == params.strip() and not experiments.changed(sandbox.COPIED, commit):
            return scores_of(stage, read)
    return None


def outputs() -> list[Path]:
    """Return the files of a trial's experiment: params.yaml, dvc.lock, scores and histories."""
    with contextlib.chdir(WORKSPACE):
        return [paths.PARAMS, *graph.uncached_outputs()]
