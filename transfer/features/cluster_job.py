"""An extraction on a cluster: the job, its batches, and the checks of what workers return."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transfer.features import extraction, store
from transfer.features.views import Drawing, Shot

MAX_BYTES = 16 << 20  # of a batch's photographs; a larger photograph is a batch of its own
TOLERANCES = {  # processors sum in different orders: a value may be off by a step of its format
    "float32": 2**-10,  # a row is stored as float16
    "bfloat16": 2**-7,
}
MAX_LOSSES = 2  # a batch that was lost as often is divided into its photographs, which workers get alone


class Timeouts(NamedTuple):
    """Seconds to wait.

    Args:
        connection: for the scheduler.
        state: for a worker's versions.
        first_batch: for the weights to be sent, and for a worker's first rows, which begin with TensorFlow's import.
        batch: for other rows; at least `batch_factor` times as long as the known photograph took here.
        batch_factor: see `batch`.
        no_worker: for a worker, before this machine computes itself.
        poll: between two looks at the list of workers.
    """

    connection: float = 30
    state: float = 60
    first_batch: float = 300
    batch: float = 60
    batch_factor: float = 20
    no_worker: float = 60
    poll: float = 1


TIMEOUTS = Timeouts()


class Inputs(NamedTuple):
    """What all rows of an extraction follow from.

    Args:
        folder: the folder that the manifest's paths are relative to.
        weights: the file of VGG16's weights, in the project's layout.
        weights_sha256: of that file, in hexadecimal.
        drawing: how views are drawn.
        network: the arguments of `extraction.build_network`, except for the weights, as plain data.
        shapes: the shape of each of a row's activations.
    """

    folder: Path
    weights: Path
    weights_sha256: str
    drawing: Drawing
    network: dict[str, Any]
    shapes: Sequence[tuple[int, ...]]


class Job(NamedTuple):
    """An extraction: what its rows follow from, and what is done with them.

    Args:
        inputs: what the rows follow from.
        compute: computes rows on this machine; called from several threads.
        put: stores a row; called from several threads.
        advance: called with the number of rows stored since the last call.
    """

    inputs: Inputs
    compute: Callable[[Sequence[Shot]], list[store.Row]]
    put: Callable[[Shot, store.Row], None]
    advance: Callable[[int], object]


class WorkerError(Exception):
    """A worker cannot be used, or did not do its work; the text is the reason."""


class Batch(NamedTuple):
    """Views that are computed together, and how often a worker did not return their rows."""

    shots: list[Shot]
    losses: int = 0


def make_batches(shots: Sequence[Shot], *, folder: Path) -> list[list[Shot]]:
    """Divide views into batches of at most `extraction.BATCH`, whose photographs have `MAX_BYTES` or are one."""
    batches: list[list[Shot]] = []
    size = MAX_BYTES
    for photograph, group in groupby(shots, key=lambda shot: shot.photograph):
        file_size = (folder / photograph.path).stat().st_size
        fits = size + file_size <= MAX_BYTES
        for shot in group:
            if not fits or len(batches[-1]) == extraction.BATCH:
                batches.append([])
                size, fits = 0, True
            batches[-1].append(shot)
        size += file_size
    return batches


def is_suspect(batch: Batch) -> bool:
    """Return whether a batch, then of one photograph, may be the reason that workers ended: a worker gets it alone."""
    return batch.losses >= MAX_LOSSES


def after_loss(batch: Batch) -> list[Batch]:
    """Return what to send to workers after one of them did not return a batch: all of it, or its photographs.

    Nothing is returned for a photograph that a worker had alone: workers cannot compute it.
    """
    if is_suspect(batch):
        return []
    losses = batch.losses + 1
    if losses < MAX_LOSSES:
        return [Batch(batch.shots, losses)]
    return [Batch(list(group), losses) for _, group in groupby(batch.shots, key=lambda shot: shot.photograph)]


def to_rows(answer: Any, *, count: int, shapes: Sequence[tuple[int, ...]]) -> list[store.Row]:
    """Return a worker's answer as rows.

    Raises:
        WorkerError: it is not `count` rows of finite float16 in these shapes.
    """
    try:
        rows = [
            store.Row(*(_to_array(part, shape) for part, shape in zip(parts, shapes, strict=True))) for parts in answer
        ]
    except (TypeError, ValueError) as error:
        raise WorkerError(
            f"its rows must be arrays of float16 in the shapes {list(shapes)}. Received: {error}"
        ) from None
    if len(rows) != count or not all(np.isfinite(part).all() for row in rows for part in row):
        raise WorkerError(f"its answer must be {count} rows of finite numbers. Received: {len(rows)} rows")
    return rows


def _to_array(part: Any, shape: tuple[int, ...]) -> store.Activation:
    kind, received, values = part
    if kind != "<f2" or tuple(received) != shape or len(values) != 2 * math.prod(shape):
        raise ValueError(f"{len(values)} bytes of {kind!r} in the shape {received}")
    return np.frombuffer(values, "<f2").reshape(shape)


def check_versions(received: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Check a worker's versions against those of this machine.

    Raises:
        WorkerError: one differs.
    """
    differing = [name for name in expected if received.get(name) != expected[name]]
    if differing:
        lists = [", ".join(f"{name} {versions.get(name)}" for name in differing) for versions in (expected, received)]
        raise WorkerError(
            f"it must have the versions of this machine, {lists[0]}. Received: {lists[1]}. Update its clone and run "
            "`make install` there, then start it again"
        )


def check_known_rows(received: Sequence[store.Row], expected: Sequence[store.Row], *, tolerance: float) -> None:
    """Check a worker's rows of the known photograph against those that this machine computed.

    The difference of two activations is the norm of their difference, divided by the norm of the expected one.

    Raises:
        WorkerError: an activation differs by more than `tolerance`.
    """
    pairs = [pair for row, right in zip(received, expected, strict=True) for pair in zip(row, right, strict=True)]
    difference = max(_difference(*(part.astype(np.float64) for part in pair)) for pair in pairs)
    if difference > tolerance:
        raise WorkerError(
            f"its rows of a known photograph must be those of this machine, within {tolerance:.1e}. "
            f"Received: rows that differ by {difference:.1e}"
        )


def _difference(received: Any, expected: Any) -> float:
    return float(np.linalg.norm(received - expected) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny))


def reason(error: BaseException) -> str:
    """Return an exception's type and the first line of its text, for a message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
