"""Thresholds for tests, of cats and dogs."""

from typing import Any

from transfer.network.thresholds import Thresholds


def limits(**changes: Any) -> Thresholds:
    """Return thresholds with one of its own for each class, and with changes."""
    given: dict[str, Any] = {
        "coverage": 0.9,
        "calibrated": "classes",
        "plausible": {"cat": 0.4, "dog": 0.4},
        "lost": 0.02,
        "distance": 1.0,
        "neighbours": 10,
        "rows": "ab" * 32,
    }
    return Thresholds(**given | changes)
