"""Manifests: CSV files that list the selected photographs, and the rejected ones with the reasons."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transfer.runtime import files, spreadsheets
from transfer.runtime.errors import DataError, rerun_hint

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPLITS = ("", "train", "validation", "test")
_COLUMNS = {"path": "path", "class": "class_name", "sha256": "sha256", "width": "width", "height": "height"}
_OPTIONAL = ("split", "source")  # columns that are written only if an entry has a value
_REJECTED_COLUMNS = ("name", "reason")
_REASON_SEPARATOR = ": "  # between a reason and its detail


class Entry(NamedTuple):
    """A selected photograph.

    Args:
        path: relative to `artifacts/subsample/`.
        class_name: the class.
        sha256: of the file, in hexadecimal.
        width: pixels, after rotation by the EXIF orientation.
        height: likewise.
        split: "train", "validation" or "test"; empty before the stage `split`.
        source: the file that the user knows, such as `inbox/cat/1.jpg`; empty if the photographs are not the user's.
    """

    path: str
    class_name: str
    sha256: str
    width: int
    height: int
    split: str = ""
    source: str = ""


class Rejected(NamedTuple):
    """A rejected photograph.

    Args:
        name: its name in the archive.
        reason: one word, such as "unreadable".
        detail: what explains the reason, such as the name of a duplicate.
        path: the file that the user knows, such as `inbox/cat/1.jpg`; empty if there is none but the archive's member.
    """

    name: str
    reason: str
    detail: str
    path: str = ""


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a manifest atomically; it has the columns `split` and `source` if any entry has one."""
    rows = [entry._replace(source=spreadsheets.protect(entry.source)) for entry in entries]
    columns = _COLUMNS | {name: name for name in _OPTIONAL if any(getattr(row, name) for row in rows)}
    files.write_csv(path, list(columns), ([getattr(row, attribute) for attribute in columns.values()] for row in rows))


def read(path: Path) -> list[Entry]:
    """Read a manifest.

    Raises:
        DataError: a column is missing, or a size, path, SHA-256, class or split is invalid. Files are named after
            paths and SHA-256s, so invalid ones could lead out of their folder.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_entry(row) for row in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            received = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path} must have the columns {', '.join(_COLUMNS)}, sizes in pixels, and be as its stage wrote it. "
                f"Received: {received}. {rerun_hint(path.parent.name)}"
            ) from None


def classes(entries: Iterable[Entry]) -> list[str]:
    """Return the class names, sorted: a name's index is the number of its class in the networks."""
    return sorted({entry.class_name for entry in entries})


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write a list of rejected photographs atomically; it has a column `path` if any of them has a path."""
    rows = [
        (spreadsheets.protect(row.name), f"{row.reason}{_REASON_SEPARATOR}{row.detail}", spreadsheets.protect(row.path))
        for row in rejected
    ]
    columns = (*_REJECTED_COLUMNS, "path") if any(row[-1] for row in rows) else _REJECTED_COLUMNS
    files.write_csv(path, columns, (row[: len(columns)] for row in rows))


def read_rejected(path: Path) -> list[Rejected]:
    """Read a list of rejected photographs.

    Raises:
        DataError: a column is missing, or the file is not text.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [_rejected(row) for row in csv.DictReader(file)]
        except (KeyError, AttributeError, ValueError, csv.Error) as error:
            raise DataError(
                f"{path} must be a table with the columns {', '.join(_REJECTED_COLUMNS)}. Received: {error!r}. "
                f"{rerun_hint(path.parent.name)}"
            ) from None


def _entry(row: dict[str, str]) -> Entry:
    """Return a row of a manifest as an entry, after checking its values."""
    entry = Entry(
        path=row["path"],
        class_name=row["class"],
        sha256=row["sha256"],
        width=int(row["width"]),
        height=int(row["height"]),
        split=row.get("split") or "",
        source=spreadsheets.unprotect(row.get("source") or ""),
    )
    path = PurePosixPath(entry.path)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in entry.path:
        raise ValueError(f"the path {entry.path!r}")
    if not _SHA256.fullmatch(entry.sha256):
        raise ValueError(f"the sha256 {entry.sha256!r}")
    if not entry.class_name or entry.split not in _SPLITS or min(entry.width, entry.height) < 1:
        raise ValueError(f"the row of {entry.path!r}")
    return entry


def _rejected(row: dict[str, str]) -> Rejected:
    reason, _, detail = row["reason"].partition(_REASON_SEPARATOR)
    name, path = row["name"], row.get("path") or ""
    return Rejected(spreadsheets.unprotect(name), reason, detail, spreadsheets.unprotect(path))
