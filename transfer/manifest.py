"""Manifests: which photographs there are, what they show and what they are used for; a CSV file."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transfer import outputs
from transfer.errors import DataError, remake

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLITS = ("", "train", "validation", "test")
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
        DataError: a column is missing, a size is no number, or a path or a sha256 is none: what is read and written
            is named after these.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_entry(row) for row in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            received = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path} must have the columns {', '.join(_COLUMNS)}, sizes in pixels, and be as its stage wrote it. "
                f"Received: {received}. "
                f"{remake(path.parent.name)}"
            ) from None


def classes(entries: Iterable[Entry]) -> list[str]:
    """The class names in the order in which the networks number them."""
    return sorted({entry.class_name for entry in entries})


def _entry(row: dict[str, str]) -> Entry:
    entry = Entry(
        path=row["path"],
        class_name=row["class"],
        sha256=row["sha256"],
        width=int(row["width"]),
        height=int(row["height"]),
        split=row.get("split") or "",
    )
    path = PurePosixPath(entry.path)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in entry.path:
        raise ValueError(f"the path {entry.path!r}")
    if not _SHA256.fullmatch(entry.sha256):
        raise ValueError(f"the sha256 {entry.sha256!r}")
    if not entry.class_name or entry.split not in _SPLITS or min(entry.width, entry.height) < 1:
        raise ValueError(f"the row of {entry.path!r}")
    return entry
