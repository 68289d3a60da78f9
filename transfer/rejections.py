"""Rejections: which candidates were not taken among the photographs, and why; a CSV file."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from transfer import outputs
from transfer.errors import DataError, remake

_COLUMNS = ("name", "reason")
_BETWEEN = ": "  # a reason and its detail


class Rejection(NamedTuple):
    """One candidate by the archive's name for it, the reason in a word, and what is behind it."""

    name: str
    reason: str
    detail: str


def write(path: Path, rejected: Iterable[Rejection]) -> None:
    """Write rejections whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([one.name, f"{one.reason}{_BETWEEN}{one.detail}"] for one in rejected)
    outputs.write_text(path, text.getvalue())


def read(path: Path) -> list[Rejection]:
    """Read rejections.

    Raises:
        DataError: a column is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_rejection(row) for row in csv.DictReader(file)]
        except (KeyError, AttributeError, ValueError, csv.Error) as error:
            raise DataError(
                f"{path} must be a table with the columns {', '.join(_COLUMNS)}. Received: {error!r}. "
                f"{remake(path.parent.name)}"
            ) from None


def _rejection(row: dict[str, str]) -> Rejection:
    reason, _, detail = row["reason"].partition(_BETWEEN)
    return Rejection(row["name"], reason, detail)
