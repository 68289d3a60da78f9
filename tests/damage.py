"""Damage: files as they come from bad disks, cut transfers and ill will, for Hypothesis to try.

The suite tries a few, always the same; `make fuzz` tries many, others each time.
"""

from typing import NamedTuple

from hypothesis import strategies


class Change(NamedTuple):
    """Bytes put in the place of others; places below zero count from the end."""

    place: int
    lost: int
    added: bytes


_PLACES = (
    strategies.integers(0, 60)
    | strategies.integers(0, 300)
    | strategies.integers(-300, -1)
    | strategies.integers(0, 1 << 14)
)
_BYTES = strategies.binary(max_size=9) | strategies.sampled_from(
    [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8]
)
_CHANGES = strategies.builds(Change, _PLACES, strategies.integers(0, 40), _BYTES) | strategies.builds(
    lambda place, added: Change(place, len(added), added), _PLACES, _BYTES
)


def damaged(*whole: bytes) -> strategies.SearchStrategy[bytes]:
    """One of some files, changed in a few places and perhaps cut."""
    return strategies.builds(
        _changed,
        strategies.sampled_from(whole),
        strategies.lists(_CHANGES, min_size=1, max_size=6),
        strategies.none() | _PLACES,
    )


def _changed(data: bytes, changes: list[Change], end: int | None) -> bytes:
    for change in changes:
        place = change.place if change.place >= 0 else max(len(data) + change.place, 0)
        data = data[:place] + change.added + data[place + change.lost :]
    return data[:end]
