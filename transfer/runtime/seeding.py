"""Seeding: random numbers that depend on a key alone, not on order, time or global state."""

import json
from hashlib import blake2b

Part = str | int


def digest(*key: Part) -> int:
    """Return a number from 0 to 2**64 - 1 that depends on the key alone, the same on every machine.

    Args:
        key: what the choice depends on, such as a seed and a photograph's sha256. Parts are separate and keep their
            types: ("ab", "c"), ("a", "bc"), (1,) and ("1",) are four keys.
    """
    encoded = json.dumps(key).encode("ascii")
    return int.from_bytes(blake2b(encoded, digest_size=8).digest(), "big")


def fraction(*key: Part) -> float:
    """Return a number in [0, 1), uniformly distributed over keys; see `digest`."""
    return (digest(*key) >> 11) / 2**53
