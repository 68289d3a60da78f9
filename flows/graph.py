"""Graph: the stages of dvc.yaml, what each needs, and why one would run again, all read from DVC."""

import graphlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.lock import LockError
from dvc.repo import Repo

from flows import workspace

Graph = Mapping[str, tuple[str, ...]]

_SHOWN = 6


class UnknownStageError(ValueError):
    """A stage was asked for that dvc.yaml does not have; the text is the whole message."""


def read() -> Graph:
    """Every stage of the dvc.yaml in the current folder with the stages it needs, none before those.

    Raises:
        DvcException: there is no dvc.yaml, or DVC cannot read it.
    """
    with Repo(os.curdir) as repo:
        stages = {stage.name: stage for stage in repo.stage.collect("dvc.yaml")}
        graph = repo.index.graph
        upstream = {
            name: tuple(needed.name for needed in graph.successors(stage) if needed in stages.values())
            for name, stage in stages.items()
        }
    order = graphlib.TopologicalSorter(upstream).static_order()
    return {name: upstream[name] for name in order}


def plan(graph: Graph, stages: Iterable[str]) -> Graph:
    """The part of the graph that holds these stages and all they need; the whole graph if none is named.

    Raises:
        UnknownStageError: a stage is not in the graph; the message lists those that are.
    """
    named = list(stages)
    if unknown := [stage for stage in named if stage not in graph]:
        raise UnknownStageError(f"Stages must be among {', '.join(graph)}. Received: {', '.join(unknown)}")
    needed = set(named or graph)
    for stage in reversed(list(graph)):
        if stage in needed:
            needed |= {*graph[stage]}
    return {stage: upstream for stage, upstream in graph.items() if stage in needed}


def changes(stages: Iterable[str], say: Callable[[str], None]) -> dict[str, str]:
    """Those of these stages that DVC would not leave as they are, each with what has changed, in words.

    Args:
        stages: names of stages.
        say: told whom this waits for, if another process of DVC holds the workspace.

    Raises:
        BusyError: it still does after `workspace.PATIENCE` seconds.
        DvcException: params.yaml or dvc.lock cannot be read.
    """
    with Repo(os.curdir) as repo:
        status: dict[str, Any] = {}

        def attempt() -> bool:
            try:
                status.update(repo.status(list(stages)))
            except LockError:
                return False
            return True

        workspace.patiently(attempt, workspace.dvc_holders, say)
        known = {stage.name for stage in repo.stage.collect("dvc.yaml") if any(dep.hash_info for dep in stage.deps)}
    return {name: described(entries) if name in known else "never run" for name, entries in status.items()}


def described(entries: Iterable[Any]) -> str:
    """What `dvc status` says of one stage in a line, as in "modified: train_head; deleted: artifacts/x"."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for kind, things in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            named = {thing: what if isinstance(what, dict) else {thing: what} for thing, what in things.items()}
            for below in named.values():
                for thing, what in below.items():
                    found.setdefault(what, []).append(thing)
            if not things:
                found[kind] = []
    return "; ".join(f"{what}: {listed(things)}" if things else what for what, things in found.items())


def listed(things: Sequence[str]) -> str:
    """Names in a row, the first few of many."""
    rest = len(things) - _SHOWN
    return ", ".join(things) if rest <= 1 else f"{', '.join(things[:_SHOWN])} and {rest} more"


def has_remote() -> bool:
    """Whether DVC has a remote that it uses by default."""
    with Repo(os.curdir) as repo:
        return bool(repo.config["core"].get("remote"))


def uncached_outputs() -> list[Path]:
    """What stages write and DVC leaves to Git: metrics, histories; and dvc.lock."""
    with Repo(os.curdir) as repo:
        outputs = [out for stage in repo.stage.collect("dvc.yaml") for out in stage.outs]
        return [Path("dvc.lock"), *(Path(out.def_path) for out in outputs if not out.use_cache)]


def sources() -> list[Path]:
    """What stages read and none of them writes: code, params, the inbox."""
    with Repo(os.curdir) as repo:
        stages = repo.stage.collect("dvc.yaml")
        written = {Path(out.def_path) for stage in stages for out in stage.outs}
        read = {Path(dep.def_path) for stage in stages for dep in stage.deps}
    return sorted(read - written)
