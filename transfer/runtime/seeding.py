"""Chance: choices that follow from a key alone, never from order, time or a global state."""

import json
from hashlib import blake2b

Part = str | int


def digest(*key: Part) -> int:
    """A number from 0 to 2**64 - 1 that follows from the key alone, the same on every machine.

    Args:
        key: what the choice depends on, such as a seed and a photograph's sha256. The parts are kept apart
            and so are their types: ("ab", "c"), ("a", "bc"), (1,) and ("1",) are four keys.
    """
    encoded = json.dumps(key).encode("ascii")
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "big")


def fraction(*key: Part) -> float:
    """A number from 0 up to but not including 1, spread evenly over keys; see `digest`."""
    return (digest(*key) >> 11) / 2**53
