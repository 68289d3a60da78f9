"""Files that appear complete or not at all: written to a temporary path in the same folder, then renamed."""

import csv
import errno
import hashlib
import io
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from transfer.runtime import disk

_HOST = re.sub(r"\W+", "-", platform.node()) or "-"  # only processes of this host can be checked
_TOKEN = secrets.token_hex(4)  # tells this process from another with its host and number, as in containers
_NUMBERS = itertools.count()
_STALE_AFTER = 24 * 3600  # seconds
_NOT_REGULAR = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})  # of a folder, a link, and a socket


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` if the block succeeds.

    The file's bytes are flushed to the disk before it is renamed, so that a power cut leaves the old file or the new.

    Raises:
        DiskError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = _temporary_path(path)
    try:
        with disk.space_for({path.parent: 0}):
            yield temporary
            commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; rename it to `path`, replacing a folder there, if the block succeeds.

    Raises:
        DiskError: the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = _temporary_path(path)
    replaced = temporary.with_name(f"{temporary.name}.old")
    temporary.mkdir()
    try:
        with disk.space_for({path.parent: 0}):
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                _flush(written)
        try:
            if path.exists():
                path.replace(replaced)
            temporary.replace(path)
        except BaseException:
            if replaced.exists() and not path.exists():
                replaced.replace(path)
            raise
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def commit(temporary: Path, path: Path) -> None:
    """Rename a complete file to `path` on the same disk, after its bytes are flushed to the disk."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder atomically, if it exists."""
    if not path.exists():
        return
    _remove_leftovers(path)
    temporary = _temporary_path(path)
    path.replace(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically."""
    with disk.space_for({path.parent: len(content)}), atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with its newlines unchanged."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file atomically; see `csv_text`."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, line_end: str = "\n") -> str:
    """Return a CSV file's content: a line of column names, then the rows; cells are quoted where necessary."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


class NotRegularError(OSError):
    """A path is no regular file, such as a pipe, whose reading may never end."""


def open_regular(path: Path, *, follow_links: bool = True) -> BinaryIO:
    """Open a regular file to read its bytes; anything else that is at the path by now is neither waited for nor read.

    Args:
        path: the path of the file.
        follow_links: whether a link to a regular file is one.

    Raises:
        NotRegularError: it is a pipe, a socket, a device or a folder, or a link that is not followed.
    """
    options = os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)  # without the first a pipe waits for a writer
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | options))  # noqa: SIM115
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise NotRegularError(error.errno, "no regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegularError(errno.EINVAL, "no regular file", str(path))
    return file


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy on disks without hard links between the two.

    Raises:
        FileExistsError: `target` exists.
        DiskError: the disk refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with disk.space_for({target.parent: source.stat().st_size}), atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file's bytes, in hexadecimal; `algorithm` is a name in `hashlib`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def is_stale(path: Path) -> bool:
    """Return whether a temporary file is so old that its process, on whatever host, must have ended.

    False for a file that another process has removed.
    """
    try:
        return path.stat().st_mtime < time.time() - _STALE_AFTER
    except FileNotFoundError:
        return False


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{_TOKEN}{next(_NUMBERS):x}")


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed processes for `path`; a replaced folder without its successor returns."""
    name = re.compile(
        rf"\.{re.escape(path.name)}\.(?P<host>[\w-]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]+)(\.(?P<kind>\w+))?"
    )
    for leftover in list(path.parent.iterdir()):
        match = name.fullmatch(leftover.name)
        if not match or _may_be_in_use(leftover, match["host"], int(match["pid"]), match["token"]):
            continue
        if match["kind"] == "old" and not path.exists():
            leftover.replace(path)
        elif leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _may_be_in_use(temporary: Path, host: str, pid: int, token: str) -> bool:
    if host != _HOST:
        return not is_stale(temporary)
    if pid == os.getpid():
        return token.startswith(_TOKEN)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
