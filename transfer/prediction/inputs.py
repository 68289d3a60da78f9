"""Inputs: find the photographs that command-line arguments name, without reading them."""

import glob
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from transfer.images import decoding
from transfer.runtime.errors import DataError
from transfer.sources import archives

STANDARD_INPUT = "-"
LIMITS = archives.Limits(members=200_000, gigabytes=100, expansion=100)  # members are read one by one, never extracted


class InputPhotograph(NamedTuple):
    """A photograph to read: its name for the user, and a function that returns its bytes.

    The function raises OSError or DataError if the photograph cannot be read. An argument without any photograph is
    represented by one that cannot be read.
    """

    name: str
    read: Callable[[], bytes]


@contextmanager
def photographs(arguments: Sequence[str]) -> Iterator[list[InputPhotograph]]:
    """Yield the photographs that arguments name, in their order; archives stay open until the block ends.

    Args:
        arguments: each one is a file (with any extension), a folder (all photographs below it by extension, sorted by
            path, without hidden ones), a pattern such as `photos/**/*.jpg`, a zip archive (as a folder), or `-` for
            one photograph on standard input.
    """
    with ExitStack() as archive_stack:
        yield [photograph for argument in arguments for photograph in _named(argument, archive_stack)]


def _named(argument: str, archive_stack: ExitStack) -> Iterator[InputPhotograph]:
    if argument == STANDARD_INPUT:
        yield InputPhotograph(STANDARD_INPUT, _read_standard_input)
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        yield from _matching(argument, archive_stack)
    else:
        yield from _at(argument, archive_stack)


def _at(path: str, archive_stack: ExitStack) -> Iterator[InputPhotograph]:
    if os.path.isdir(path):  # noqa: PTH112 - a Path may raise here; errors are reported by reading
        yield from _at_least_one(path, _in_folder(path))
    elif os.path.isfile(path) and path.lower().endswith(".zip"):  # noqa: PTH113 - see above
        yield from _at_least_one(path, _in_archive(path, archive_stack))
    else:
        yield InputPhotograph(path, partial(_read_file, path))


def _matching(pattern: str, archive_stack: ExitStack) -> Iterator[InputPhotograph]:
    """Yield the photographs at a pattern's matches, as a shell expands it; each one once."""
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    by_name = {photograph.name: photograph for match in matches for photograph in _at(match, archive_stack)}
    yield from _at_least_one(pattern, by_name.values())


def _at_least_one(name: str, photographs: Iterable[InputPhotograph]) -> Iterator[InputPhotograph]:
    """Yield the photographs or, if there are none, one whose reading fails with this reason."""
    empty = True
    for photograph in photographs:
        empty = False
        yield photograph
    if empty:
        yield _unreadable(name, DataError("no photographs there"))


def _in_folder(folder: str) -> Iterator[InputPhotograph]:
    errors: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(parent, name) for name in sorted(names)]
        yield from (
            InputPhotograph(str(path), partial(_read_file, str(path)))
            for path in paths
            if archives.is_photograph(PurePosixPath(path.relative_to(folder))) and _may_be_regular(path)
        )
    yield from (_unreadable(str(error.filename), error) for error in errors)


def _may_be_regular(path: Path) -> bool:
    """Return False for pipes and devices, which may never end; True if the type is unknown: reading reports why."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _in_archive(path: str, archive_stack: ExitStack) -> Iterator[InputPhotograph]:
    try:
        archive = archive_stack.enter_context(archives.open_archive(Path(path), limits=LIMITS))
    except (DataError, OSError) as error:
        yield _unreadable(path, error)
    else:
        yield from (
            InputPhotograph(
                f"{path}/{member.filename}", partial(archives.read_member, archive, member, most=decoding.MAX_BYTES)
            )
            for member in archives.photographs(archive)
        )


def _unreadable(name: str, error: Exception) -> InputPhotograph:
    def fail() -> bytes:
        raise error

    return InputPhotograph(name, fail)


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return _read_limited(file)


def _read_standard_input() -> bytes:
    return _read_limited(sys.stdin.buffer)


def _read_limited(file: BinaryIO) -> bytes:
    data = file.read(decoding.MAX_BYTES + 1)
    if len(data) > decoding.MAX_BYTES:
        raise DataError(f"larger than {decoding.MAX_BYTES >> 20} MiB")
    return data
