"""Numbers: the range in which all of the project's libraries can compute with a parameter."""

import math
import struct
from collections.abc import Iterator
from typing import Any

MAX_INTEGER = 2**63 - 1
_MIN_NORMAL = 2.0**-126  # the least positive number in single precision that TensorFlow does not replace by 0

Location = tuple[int | str, ...]


def too_large(value: object, location: Location = ()) -> Iterator[tuple[Location, int]]:
    """Yield each integer in nested lists and mappings whose magnitude exceeds `MAX_INTEGER`, with its location."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from too_large(part, (*location, str(key)))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from too_large(part, (*location, index))
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        yield location, value


def in_single_precision(value: object) -> object:
    """Return nested lists and mappings in which each float has the value that TensorFlow computes with.

    A number close to a limit may become the limit, as 0.9999999999999999 becomes 1, and 1e-50 becomes 0.
    """
    if isinstance(value, dict):
        return {key: in_single_precision(part) for key, part in value.items()}
    if isinstance(value, list):
        return [in_single_precision(part) for part in value]
    if not isinstance(value, float):
        return value
    if abs(value) < _MIN_NORMAL:
        return 0.0
    try:
        single: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single


def value_at(values: Any, location: Location) -> object:
    """Return the value at a location in nested lists and mappings."""
    for part in location:
        values = values[part]
    return values
