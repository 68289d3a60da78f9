"""Scores: those of the workspace as a table, and those of two versions side by side with the parameters that differ."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tabulate import tabulate

from dogs_vs_cats import hints
from transfer.evaluation import names, results
from transfer.evaluation.scores import Scores
from transfer.runtime import paths
from transfer.runtime.errors import DataError

METRICS = paths.artifact("evaluate", "metrics.json")
LOCK = Path("dvc.lock")
WIDTH = 100  # columns of a terminal
_VALUE = 20  # characters of a parameter's value
_MISSING = "-"


class Version(NamedTuple):
    """A state of the project.

    Attributes:
        name: as the user wrote it.
        metrics: the content of the evaluation's metrics.json.
        params: the content of params.yaml.
        stale: the stages whose results are newer than those that were evaluated.
    """

    name: str
    metrics: dict[str, Any]
    params: dict[str, Any]
    stale: list[str]


def show(folder: Path) -> str:
    """Return the table of scores of the workspace, as `evaluate` prints it.

    Raises:
        DataError: there are no scores, or they cannot be read.
    """
    version = read(folder, None)
    confidence = version.params.get("evaluate", {}).get("confidence", 0.95)
    table = results.table(
        {stage: Scores(**{name: of_stage[name] for name in Scores._fields}) for stage, of_stage in networks(version)},
        confidence=confidence,
    )
    return "\n".join([table, *notes(version)])


def compare(folder: Path, before: str, now: str | None = None) -> str:
    """Return the scores of two versions side by side, and the parameters that differ.

    Args:
        folder: the project.
        before: a revision of Git or the name of an experiment.
        now: another; None for the workspace.

    Raises:
        DataError: one of them is neither, or has no scores.
    """
    old, new = read(folder, before), read(folder, now)
    headings = [f"before: {old.name}", f"now:    {new.name}"]
    scored = tabulate(
        score_rows(old, new), ["", "before", "now", "change"], tablefmt="plain", disable_numparse=True,
        colalign=("left", "right", "right", "right"),
    )  # fmt: skip
    changed = param_rows(old.params, new.params)
    params = tabulate(changed, ["parameter", "before", "now"], tablefmt="plain", disable_numparse=True)
    remarks = [f"before: {note}" for note in notes(old)] + [f"now: {note}" for note in notes(new)]
    return "\n".join([*headings, "", scored, "", params if changed else "The parameters are equal.", *remarks])


def networks(version: Version) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each network's stage and scores."""
    return (
        (name, {**scores, "balanced_accuracy": mean(scores["recall"].values())})  # which earlier versions did not write
        for name, scores in version.metrics.items()
        if isinstance(scores, dict) and "recall" in scores
    )


def score_rows(before: Version, now: Version) -> list[list[str]]:
    """Return a row for each main score of each network that both versions have: name, both values, change."""
    rows = []
    earlier = dict(networks(before))
    for stage, scores in networks(now):
        for name in ("accuracy", "balanced_accuracy", "log_loss", "roc_auc", "calibration_error"):
            old, new = earlier.get(stage, {}).get(name), scores.get(name)
            if old is not None and new is not None:
                rows.append(
                    [
                        f"{names.network(stage)}  {name.replace('_', ' ')}",
                        f"{old:.4f}",
                        f"{new:.4f}",
                        f"{new - old:+.4f}",
                    ]
                )
    return rows


def param_rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each parameter that differs: its dotted name and both values, cut to fit the line."""
    old, new = dict(flat(before)), dict(flat(now))
    names = [name for name in dict.fromkeys([*new, *old]) if old.get(name, _MISSING) != new.get(name, _MISSING)]
    return [[name, *(_text(values.get(name, _MISSING)) for values in (old, new))] for name in names]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each parameter in a section and the sections within it."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"


def read(folder: Path, revision: str | None) -> Version:
    """Read scores and parameters of a revision of Git, of an experiment, or of the workspace if None.

    Raises:
        DataError: there is no such revision, or it has no scores, or they cannot be read.
    """
    commit = commit_of(folder, revision) if revision else None
    name = revision or "the workspace"
    texts = [text(folder, commit, path) for path in (METRICS, paths.PARAMS, LOCK)]
    if texts[0] is None:
        if commit is None:
            raise hints.too_early(f"Scores are in {METRICS}, which the stage `evaluate` writes.")
        raise DataError(f"`{name}` must have scores. Received: a revision without {METRICS}. Name another.")
    yaml = YAML(typ="safe", pure=True)
    try:
        metrics, params, lock = json.loads(texts[0]), yaml.load(texts[1] or ""), yaml.load(texts[2] or "")
    except (YAMLError, ValueError) as error:
        raise DataError(f"Scores, parameters and dvc.lock of {name} must be readable. Received: {error}") from None
    return Version(name, metrics, params or {}, newer_stages(lock or {}))


def commit_of(folder: Path, name: str) -> str:
    """Return the commit of a revision of Git or, of the experiments with a name, of the newest.

    Raises:
        DataError: there is neither.
    """
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    form = "--format=%(objectname) %(refname:lstrip=4)"
    listed = _git(folder, "for-each-ref", "--sort=-committerdate", form, "refs/exps")
    experiments = (line.partition(" ") for line in (listed or "").splitlines())
    found = commit or next((commit for commit, _, experiment in experiments if experiment == name), None)
    if not found:
        raise DataError(
            f"Scores are compared with a revision of Git or an experiment. Received: `{name}`, which is neither. "
            "`git log --oneline` and `dvc exp list --all-commits` list them."
        )
    return found.strip()


def text(folder: Path, commit: str | None, path: Path) -> str | None:
    """Return the content of a file in a commit, or in the workspace if None; None if there is no such file."""
    if commit:
        return _git(folder, "show", f"{commit}:./{path.as_posix()}")
    file = folder / path
    return file.read_text(encoding="utf-8") if file.is_file() else None


def newer_stages(lock: Mapping[str, Any]) -> list[str]:
    """Return the stages in dvc.lock whose outputs are not those that `evaluate` has read."""
    stages: Mapping[str, Any] = lock.get("stages", {})
    evaluated = _hashes(stages.get("evaluate", {}).get("deps", []))
    outputs = {name: _hashes(stage.get("outs", [])) for name, stage in stages.items()}
    return [
        name for name, made in outputs.items() if any(evaluated.get(path, made[path]) != made[path] for path in made)
    ]


def _hashes(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the hash of each path in a list of dvc.lock."""
    return {entry["path"]: entry.get("md5") for entry in entries}


def notes(version: Version) -> list[str]:
    """Return a warning if the scores are not those of the networks of this version."""
    if not version.stale:
        return []
    return [f"These scores are older than the results of {', '.join(version.stale)}; `dogs-vs-cats run` renews them."]


def _git(folder: Path, *arguments: str) -> str | None:
    """Return Git's output; None if it fails."""
    done = subprocess.run(  # noqa: S603 - no shell, and the project's own arguments
        ["git", *arguments],  # noqa: S607 - the user's Git
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode else done.stdout
