"""Arguments: the photographs that a command line names, found but not yet read."""

import glob
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from transfer.images import decoding
from transfer.runtime.errors import DataError
from transfer.sources import archives

STANDARD_INPUT = "-"
LIMITS = archives.Limits(members=200_000, gigabytes=100, expansion=100)  # members are read one by one, never unpacked


class InputPhotograph(NamedTuple):
    """What is to be read: how the user knows it, and a function to its bytes.

    The function raises OSError or DataError where there is nothing to be had; so an argument that leads nowhere is
    a photograph too, one that cannot be read.
    """

    name: str
    read: Callable[[], bytes]


@contextmanager
def photographs(arguments: Sequence[str]) -> Iterator[list[InputPhotograph]]:
    """Find the photographs that arguments name, in their order; archives stay open as long as the block runs.

    Args:
        arguments: each a file (whatever its ending), a folder (all below it by ending, in order of their paths;
            nothing hidden), a pattern such as `photos/**/*.jpg`, a zip archive (likewise), or `-` for the bytes of
            one photograph on standard input.
    """
    with ExitStack() as opened:
        yield [found for argument in arguments for found in _found(argument, opened)]


def _found(argument: str, opened: ExitStack) -> Iterator[InputPhotograph]:
    if argument == STANDARD_INPUT:
        yield InputPhotograph(STANDARD_INPUT, _read_standard_input)
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        yield from _matching(argument, opened)
    else:
        yield from _at(argument, opened)


def _at(path: str, opened: ExitStack) -> Iterator[InputPhotograph]:
    if os.path.isdir(path):  # noqa: PTH112 - where a Path would raise, this leaves it to reading
        yield from _some(path, _in_folder(path))
    elif os.path.isfile(path) and path.lower().endswith(".zip"):  # noqa: PTH113 - likewise
        yield from _some(path, _in_archive(path, opened))
    else:
        yield InputPhotograph(path, partial(_read_file, path))


def _matching(pattern: str, opened: ExitStack) -> Iterator[InputPhotograph]:
    """What a shell would have put in the pattern's place; with `**`, each photograph once."""
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    found = (photograph for match in matches for photograph in _at(match, opened))
    yield from _some(pattern, iter({photograph.name: photograph for photograph in found}.values()))


def _some(name: str, found: Iterator[InputPhotograph]) -> Iterator[InputPhotograph]:
    """The photographs, or one that says that there are none."""
    empty = True
    for photograph in found:
        empty = False
        yield photograph
    if empty:
        yield _unreadable(name, DataError("no photographs there"))


def _in_folder(folder: str) -> Iterator[InputPhotograph]:
    refused: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place, name) for name in sorted(names)]
        yield from (
            InputPhotograph(str(path), partial(_read_file, str(path)))
            for path in paths
            if archives.is_photograph(PurePosixPath(path.relative_to(folder))) and _ends(path)
        )
    yield from (_unreadable(str(error.filename), error) for error in refused)


def _ends(path: Path) -> bool:
    """Whether a file is one that is read to an end: no pipe or device. Reading tells where this cannot be told."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _in_archive(path: str, opened: ExitStack) -> Iterator[InputPhotograph]:
    try:
        archive = opened.enter_context(archives.open_archive(Path(path), limits=LIMITS))
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
    def refuse() -> bytes:
        raise error

    return InputPhotograph(name, refuse)


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return _whole(file)


def _read_standard_input() -> bytes:
    return _whole(sys.stdin.buffer)


def _whole(file: BinaryIO) -> bytes:
    data = file.read(decoding.MAX_BYTES + 1)
    if len(data) > decoding.MAX_BYTES:
        raise DataError(f"larger than {decoding.MAX_BYTES >> 20} MiB")
    return data
