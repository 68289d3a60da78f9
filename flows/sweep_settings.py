"""Sweep settings: read a sweep from sweeps.yaml, and write the params.yaml of each of its trials."""

import contextlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from flows import experiments
from transfer.runtime import params, paths
from transfer.runtime.errors import ParamsError

SWEEPS = Path("sweeps.yaml")
HEAD = "train_head"
STAGES = (HEAD, "fine_tune")  # the stages whose `seed` is a sweep's seed

Changes = Mapping[str, Any]  # values by dotted names of parameters


class Sweep(params.Section):
    """Which parameters vary, and which stage's validation scores are compared."""

    stage: Literal["train_head", "fine_tune"]
    seeds: list[Annotated[int, Field(ge=0)]]
    given: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    points: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_distinct_points(self) -> "Sweep":
        if bool(self.grid) == bool(self.points):
            raise ValueError(
                "a sweep must have either `grid` or `points`, with something in it. "
                f"Received: {'both' if self.grid else 'neither'}"
            )
        for name, values in {"seeds": self.seeds, **self.grid}.items():
            if not values or len(set(map(str, values))) < len(values):
                raise ValueError(f"`{name}` must have at least one value, and each once. Received: {values}")
        names = [point.name for point in points(self)]
        counts = Counter(map(experiments.allowed, names))
        if ambiguous := [name for name in names if counts[experiments.allowed(name)] > 1]:
            raise ValueError(
                "the name of each point, in a `grid` its values in a row, must differ by letters or digits, "
                f"as experiments are named for them. Received: {', '.join(ambiguous)}. Name them, as `points`."
            )
        return self


class Point(NamedTuple):
    """A combination of parameters, with its name in the comparison."""

    name: str
    changes: Changes


class Trial(NamedTuple):
    """A point with one seed."""

    point: str
    seed: int
    params: str  # the content of its params.yaml


def read(name: str) -> Sweep:
    """Read a sweep from sweeps.yaml.

    Raises:
        ParamsError: the file cannot be read, has no such sweep, or the sweep is not valid.
    """
    sweeps = params.read(SWEEPS)
    if name not in sweeps:
        raise ParamsError(f"A sweep must be one of {SWEEPS}: {', '.join(map(str, sweeps))}. Received: {name!r}")
    if not re.fullmatch(r"[^./\0][^/\0]*", name):
        raise ParamsError(f"The name of a sweep must be one of a file, and not begin with a dot. Received: {name!r}")
    return params.parse(name, sweeps[name], Sweep, file=SWEEPS)


def points(sweep: Sweep) -> list[Point]:
    """Return every point of a sweep; the name of a point of a grid is its values in a row."""
    if sweep.points:
        return [Point(name, changes) for name, changes in sweep.points.items()]
    combinations = itertools.product(*sweep.grid.values())
    return [Point(" ".join(map(str, values)), dict(zip(sweep.grid, values, strict=True))) for values in combinations]


def trials(sweep: Sweep) -> list[Trial]:
    """Return every point with every seed, in the order in which they run.

    Raises:
        ParamsError: params.yaml cannot be read, or lacks a parameter that a point changes.
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
    """Change some values of params.yaml in place; comments and order stay.

    Args:
        document: the content of params.yaml.
        changes: the new values.

    Returns:
        `document`.

    Raises:
        ParamsError: params.yaml has no parameter of that name.
    """
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = document
        for inner in sections:
            section = section.get(inner) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ParamsError(f"A sweep changes parameters that {paths.PARAMS} has. Received: `{name}`.")
        section[last] = _in_one_line(value)
    return document


def _in_one_line(value: Any) -> Any:
    """Format a list or dict in one line, as in params.yaml; over several lines, the comment after it would move."""
    if not isinstance(value, list | dict):
        return value
    formatted: Any = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    formatted.fa.set_flow_style()
    return formatted


def in_yaml(document: Any) -> str:
    """Format parameters as YAML, with comments unless the result would read as other values."""
    text, values = io.StringIO(), _plain(document)
    YAML().dump(document, text)
    with contextlib.suppress(YAMLError):
        if YAML(typ="safe", pure=True).load(text.getvalue()) == values:
            return text.getvalue()
    plain = io.StringIO()
    YAML().dump(values, plain)
    return plain.getvalue()


def _plain(value: Any) -> Any:
    """Copy a document without its comments."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
