"""Outputs that appear whole or not at all: written beside their place, then moved into it."""

import csv
import hashlib
import io
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfer.runtime import disk

_HOST = re.sub(r"\W+", "-", platform.node()) or "-"  # its processes can be asked for; those of others share a folder
_ABANDONED = 24 * 3600  # seconds


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; move it to `path` if the block succeeds.

    The bytes are on the disk before the name is, so that a power cut leaves the old file or the new one.

    Raises:
        DiskError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path)
    beside = _beside(path)
    try:
        with disk.space_for({path.parent: 0}):
            yield beside
            commit(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; move it to `path`, replacing it, if the block succeeds.

    Raises:
        DiskError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path)
    beside = _beside(path)
    replaced = beside.with_name(f"{beside.name}.old")
    beside.mkdir()
    try:
        with disk.space_for({path.parent: 0}):
            yield beside
            for written in (*beside.rglob("*"), beside):
                _sync(written)
        try:
            if path.exists():
                path.replace(replaced)
            beside.replace(path)
        except BaseException:
            if replaced.exists() and not path.exists():
                replaced.replace(path)
            raise
        _sync(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def commit(beside: Path, path: Path) -> None:
    """Move a whole file to a path on the same disk, its bytes before its name."""
    _sync(beside)
    beside.replace(path)
    _sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, if there is one; whoever is killed meanwhile has removed all of it or nothing."""
    if not path.exists():
        return
    _remove_left_behind(path)
    beside = _beside(path)
    path.replace(beside)
    shutil.rmtree(beside, ignore_errors=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole."""
    with disk.space_for({path.parent: len(content)}), atomic_write(path) as beside:
        beside.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, newlines as they are) whole."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole, the same bytes for the same value."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file whole, see `csv_text`."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, line_end: str = "\n") -> str:
    """The content of a CSV file: a line of column names, then the rows; cells are quoted where they must be."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link where the disks allow it, a copy elsewhere."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with disk.space_for({target.parent: source.stat().st_size}), atomic_write(target) as beside:
            shutil.copyfile(source, beside)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Digest of a file's bytes by an algorithm of hashlib's, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def is_stale(path: Path) -> bool:
    """Whether what a process of any host writes is so old that it is taken for left; not what is gone meanwhile."""
    try:
        return path.stat().st_mtime < time.time() - _ABANDONED
    except FileNotFoundError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}")


def _remove_left_behind(path: Path) -> None:
    """Remove what killed processes left beside `path`, but for an old folder that nothing has replaced yet."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(?P<host>[\w-]+)\.(?P<process>\d+)(\.(?P<kind>\w+))?")
    for other in list(path.parent.iterdir()):
        match = name.fullmatch(other.name)
        if not match:
            continue
        if _runs_elsewhere(int(match["process"])) if match["host"] == _HOST else not is_stale(other):
            continue
        if match["kind"] == "old" and not path.exists():
            other.replace(path)
        elif other.is_dir():
            shutil.rmtree(other)
        else:
            other.unlink(missing_ok=True)


def _runs_elsewhere(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
