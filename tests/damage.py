"""Damage: a Hypothesis strategy for files with changed, missing and additional bytes.

The suite tries few examples, always the same; `make fuzz` tries many, each time others.
"""

from typing import NamedTuple

from hypothesis import strategies


class Change(NamedTuple):
    """A replacement of bytes; a negative position counts from the end."""

    position: int
    removed: int  # bytes
    added: bytes


_POSITIONS = (
    strategies.integers(0, 60)
    | strategies.integers(0, 300)
    | strategies.integers(-300, -1)
    | strategies.integers(0, 1 << 14)
)
_BYTES = strategies.binary(max_size=9) | strategies.sampled_from(
    [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8]
)
_CHANGES = strategies.builds(Change, _POSITIONS, strategies.integers(0, 40), _BYTES) | strategies.builds(
    lambda position, added: Change(position, len(added), added), _POSITIONS, _BYTES
)


def damaged(*files: bytes) -> strategies.SearchStrategy[bytes]:
    """Return a strategy that changes one of the files at up to six positions, and may cut it."""
    return strategies.builds(
        _changed,
        strategies.sampled_from(files),
        strategies.lists(_CHANGES, min_size=1, max_size=6),
        strategies.none() | _POSITIONS,
    )


def _changed(data: bytes, changes: list[Change], end: int | None) -> bytes:
    for change in changes:
        start = change.position if change.position >= 0 else max(len(data) + change.position, 0)
        data = data[:start] + change.added + data[start + change.removed :]
    return data[:end]
