"""Manifests: which photographs there are, what they show and what they are used for; a CSV file."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from transfer import outputs
from transfer.errors import DataError

_COLUMNS = {"path": "path", "class": "class_name", "sha256": "sha256", "width": "width", "height": "height"}


class Entry(NamedTuple):
    """One photograph: its path below `artifacts/subsample/`, class, content, pixels and split.

    Width and height are those of the upright photograph; before `split` the split is empty.
    """

    path: str
    class_name: str
    sha256: str
    width: int
    height: int
    split: str = ""


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest whole; it has a column `split` if the entries have one."""
    rows = list(entries)
    columns = _COLUMNS | ({"split": "split"} if any(row.split for row in rows) else {})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, attribute) for attribute in columns.values()] for row in rows)
    outputs.write_text(path, text.getvalue())


def read(path: Path) -> list[Entry]:
    """Read a manifest.

    Raises:
        DataError: a column is missing or a size is no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_entry(row) for row in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            received = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path} must have the columns {', '.join(_COLUMNS)}, sizes in pixels. Received: {received}. "
                "Rerun the stage that makes it."
            ) from None


def classes(entries: Iterable[Entry]) -> list[str]:
    """The class names in the order in which the networks number them."""
    return sorted({entry.class_name for entry in entries})


def _entry(row: dict[str, str]) -> Entry:
    return Entry(
        path=row["path"],
        class_name=row["class"],
        sha256=row["sha256"],
        width=int(row["width"]),
        height=int(row["height"]),
        split=row.get("split") or "",
    )
