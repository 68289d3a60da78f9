"""Manifests: which photographs there are, what they show and what they are used for; a CSV file."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transfer.runtime import files
from transfer.runtime.errors import DataError, rerun_hint

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
    files.write_text(path, text.getvalue())


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
                f"{rerun_hint(path.parent.name)}"
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


_REJECTED_COLUMNS = ("name", "reason")
_BETWEEN = ": "  # a reason and its detail


class Rejected(NamedTuple):
    """One candidate by the archive's name for it, the reason in a word, and what is behind it."""

    name: str
    reason: str
    detail: str


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write rejections whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_REJECTED_COLUMNS)
    writer.writerows([one.name, f"{one.reason}{_BETWEEN}{one.detail}"] for one in rejected)
    files.write_text(path, text.getvalue())


def read_rejected(path: Path) -> list[Rejected]:
    """Read rejections.

    Raises:
        DataError: a column is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_rejection(row) for row in csv.DictReader(file)]
        except (KeyError, AttributeError, ValueError, csv.Error) as error:
            raise DataError(
                f"{path} must be a table with the columns {', '.join(_REJECTED_COLUMNS)}. Received: {error!r}. "
                f"{rerun_hint(path.parent.name)}"
            ) from None


def _rejection(row: dict[str, str]) -> Rejected:
    reason, _, detail = row["reason"].partition(_BETWEEN)
    return Rejected(row["name"], reason, detail)
