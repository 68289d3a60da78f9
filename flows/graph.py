"""Graph: the stages of dvc.yaml, the stages that each needs, and the reasons to run one again, as DVC knows them."""

import graphlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from dvc.lock import LockError
from dvc.repo import Repo
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows import workspace

Graph = Mapping[str, tuple[str, ...]]

DECLARED = Path(__file__).parents[1] / "dvc.yaml"  # the pipeline of this clone, in any folder

_SHOWN = 6


class UnknownStageError(ValueError):
    """A stage is not in dvc.yaml; the text is the message for the user."""


def read() -> Graph:
    """Return every stage of the dvc.yaml in the current folder with the stages it needs, in an order to run them in.

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


def declared() -> list[str]:
    """Return the names of the stages in the project's dvc.yaml, in its order; none if the file cannot be read.

    DVC is not asked, as it takes a second and reads every stage.
    """
    try:
        stages = YAML(typ="safe").load(DECLARED)["stages"]
    except (OSError, YAMLError, LookupError, TypeError):
        return []
    return list(stages)


def add_choices(schema: dict[str, Any]) -> None:
    """Add the names of the stages to the JSON schema of one, in place; nothing if dvc.yaml cannot be read."""
    if stages := declared():
        schema["enum"] = stages


Stage = Annotated[str, Field(json_schema_extra=add_choices)]  # Prefect's run form offers the names


def plan(graph: Graph, stages: Iterable[str]) -> Graph:
    """Return the part of the graph with the named stages and all that they need; all of it if none is named.

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


def changes(stages: Iterable[str], log: Callable[[str], None]) -> dict[str, str]:
    """Return the stages that DVC would run again, each with the reason.

    Args:
        stages: names of the stages to check.
        log: called with a message if this has to wait for another process of DVC.

    Raises:
        WorkspaceBusyError: that process was not done after `workspace.LONGEST_WAIT` seconds.
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

        workspace.wait_until_free(attempt, workspace.dvc_holders, log)
        known = {stage.name for stage in repo.stage.collect("dvc.yaml") if any(dep.hash_info for dep in stage.deps)}
    return {name: described(entries) if name in known else "never run" for name, entries in status.items()}


def described(entries: Iterable[Any]) -> str:
    """Format the status of one stage in a line, such as "modified: train_head; deleted: artifacts/x".

    Args:
        entries: as `dvc.repo.Repo.status` returns them: "changed command", or {"changed deps": {path: state}}.
    """
    names_by_state: dict[str, list[str]] = {}
    for entry in entries:
        for kind, states in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            # a file of params has its parameters one level deeper
            by_file = {name: state if isinstance(state, dict) else {name: state} for name, state in states.items()}
            for below in by_file.values():
                for name, state in below.items():
                    names_by_state.setdefault(state, []).append(name)
            if not states:
                names_by_state[kind] = []
    return "; ".join(f"{state}: {listed(names)}" if names else state for state, names in names_by_state.items())


def listed(names: Sequence[str]) -> str:
    """Join names by commas; of many, the first few and the number of the others."""
    others = len(names) - _SHOWN
    return ", ".join(names) if others <= 1 else f"{', '.join(names[:_SHOWN])} and {others} more"


def has_remote() -> bool:
    """Return whether DVC has a default remote."""
    with Repo(os.curdir) as repo:
        return bool(repo.config["core"].get("remote"))


def uncached_outputs() -> list[Path]:
    """Return dvc.lock and the outputs of stages that Git keeps instead of DVC: metrics and histories."""
    with Repo(os.curdir) as repo:
        outputs = [out for stage in repo.stage.collect("dvc.yaml") for out in stage.outs]
        return [Path("dvc.lock"), *(Path(out.def_path) for out in outputs if not out.use_cache)]


def sources() -> list[Path]:
    """Return the inputs of stages that no stage writes: code, parameters, the inbox."""
    with Repo(os.curdir) as repo:
        stages = repo.stage.collect("dvc.yaml")
        written = {Path(out.def_path) for stage in stages for out in stage.outs}
        read = {Path(dep.def_path) for stage in stages for dep in stage.deps}
    return sorted(read - written)
