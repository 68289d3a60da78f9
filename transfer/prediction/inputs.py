"""Inputs: find the photographs that command-line arguments name, without reading them."""

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from transfer.images import decoding
from transfer.runtime import files
from transfer.runtime.errors import DataError
from transfer.sources import archives

STANDARD_INPUT = "-"
LIMITS = archives.Limits(members=200_000, gigabytes=100, expansion=100)  # members are read one by one, never extracted
HIDDEN, LINKED_FOLDER, SPECIAL = "hidden", "linked folder", "named pipe or device"
NO_EXTENSION = "without an extension"
_LISTED = 8  # kinds of skipped files that are named


class InputPhotograph(NamedTuple):
    """A photograph to read: its name for the user, and a function that returns its bytes.

    The function raises OSError or DataError if the photograph cannot be read; `error` is this exception if it is known
    without reading. An argument without any photograph is represented by one that cannot be read.
    """

    name: str
    read: Callable[[], bytes]
    error: Exception | None = None


class Inputs(NamedTuple):
    """The photographs that arguments name, and how many other files were skipped, by their extension or kind."""

    photographs: list[InputPhotograph]
    skipped: Counter[str]


@contextmanager
def photographs(arguments: Sequence[str]) -> Iterator[Inputs]:
    """Yield the photographs that arguments name, in their order; archives stay open until the block ends.

    Args:
        arguments: each one is a file (with any extension), a folder (all photographs below it by extension, sorted by
            path, without hidden ones), a pattern such as `photos/**/*.jpg`, a zip archive (as a folder), or `-` for
            one photograph on standard input.
    """
    with ExitStack() as archive_stack:
        search = _Search(archive_stack, Counter())
        yield Inputs([photograph for argument in arguments for photograph in search.named(argument)], search.skipped)


def skipped_text(skipped: Counter[str]) -> str:
    """Return the number of skipped files of each kind, such as "3 .txt, 1 hidden"."""
    kinds = [f"{count:,} {kind}" for kind, count in skipped.most_common(_LISTED)]
    others = skipped.total() - sum(count for _, count in skipped.most_common(_LISTED))
    return ", ".join([*kinds, f"{others:,} others"] if others else kinds)


class _Search(NamedTuple):
    """A search for photographs: the archives that it opened, and the files that it skipped."""

    archive_stack: ExitStack
    skipped: Counter[str]

    def named(self, argument: str) -> Iterator[InputPhotograph]:
        if argument == STANDARD_INPUT:
            yield InputPhotograph(STANDARD_INPUT, _read_standard_input)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from self._matching(argument)
        else:
            yield from self._at(argument)

    def _at(self, path: str) -> Iterator[InputPhotograph]:
        if os.path.isdir(path):  # noqa: PTH112 - a Path may raise here
            yield from _at_least_one(path, self._in_folder(path))
        elif os.path.isfile(path) and path.lower().endswith(".zip"):  # noqa: PTH113 - see above
            yield from _at_least_one(path, self._in_archive(path))
        else:
            error = _why_unreadable(path)
            yield _unreadable(path, error) if error else InputPhotograph(path, partial(_read_file, path))

    def _matching(self, pattern: str) -> Iterator[InputPhotograph]:
        """Yield the photographs at a pattern's matches, as a shell expands it; each one once."""
        by_name: dict[str, InputPhotograph] = {}
        for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
            if _is_special(match):
                self.skipped[SPECIAL] += 1
            else:
                by_name |= {photograph.name: photograph for photograph in self._at(match)}
        yield from _at_least_one(pattern, by_name.values())

    def _in_folder(self, folder: str) -> Iterator[InputPhotograph]:
        errors: list[OSError] = []
        for parent, folders, names in os.walk(folder, onerror=errors.append):
            visible = [name for name in folders if not name.startswith(".")]
            self.skipped.update([HIDDEN] * (len(folders) - len(visible)))
            self.skipped.update(LINKED_FOLDER for name in visible if os.path.islink(Path(parent, name)))  # noqa: PTH114
            folders[:] = sorted(visible)
            for path in (Path(parent, name) for name in sorted(names)):
                relative = PurePosixPath(path.relative_to(folder))
                if not archives.is_photograph(relative):
                    self.skipped[_kind(relative)] += 1
                elif _is_special(str(path)):
                    self.skipped[SPECIAL] += 1
                else:
                    yield InputPhotograph(str(path), partial(_read_file, str(path)))
        yield from (_unreadable(str(error.filename), error) for error in errors)

    def _in_archive(self, path: str) -> Iterator[InputPhotograph]:
        try:
            archive = self.archive_stack.enter_context(archives.open_archive(Path(path), limits=LIMITS))
        except (DataError, OSError) as error:
            yield _unreadable(path, error)
            return
        members = archives.photographs(archive)
        names = {member.filename for member in archive.infolist() if not member.is_dir()}
        others = names - {member.filename for member in members}
        self.skipped.update(_kind(PurePosixPath(name)) for name in others)
        for member in members:
            read = partial(archives.read_member, archive, member, most=decoding.MAX_BYTES)
            yield InputPhotograph(f"{path}/{member.filename}", read)


def _kind(path: PurePosixPath) -> str:
    """Return the extension of a file that is no photograph; a photograph's extension means that it is hidden."""
    hidden = path.name.startswith(".") or archives.is_photograph(PurePosixPath(path.name))
    return HIDDEN if hidden else path.suffix.lower() or NO_EXTENSION


def _at_least_one(name: str, photographs: Iterable[InputPhotograph]) -> Iterator[InputPhotograph]:
    """Yield the photographs or, if there are none, one that cannot be read for this reason."""
    empty = True
    for photograph in photographs:
        empty = False
        yield photograph
    if empty:
        yield _unreadable(name, DataError("no photographs there"))


def _why_unreadable(path: str) -> Exception | None:
    """Return why a path cannot be read, if its type tells: it does not exist, or reading it may never end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - see above
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) else DataError(str(error))
    return None if stat.S_ISREG(mode) else _special_file()


def _is_special(path: str) -> bool:
    """Return True for pipes, sockets and devices, which may never end; False if the type is unknown."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - see above
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _special_file() -> DataError:
    return DataError(f"a {SPECIAL}, which may never end; use `-` to read a photograph from standard input")


def _unreadable(name: str, error: Exception) -> InputPhotograph:
    def fail() -> bytes:
        raise error

    return InputPhotograph(name, fail, error)


def _read_file(path: str) -> bytes:
    try:
        file = files.open_regular(Path(path))
    except files.NotRegularError:  # replaced since it was found
        raise _special_file() from None
    with file:
        return _read_limited(file)


def _read_standard_input() -> bytes:
    return _read_limited(sys.stdin.buffer)


def _read_limited(file: BinaryIO) -> bytes:
    data = file.read(decoding.MAX_BYTES + 1)
    if len(data) > decoding.MAX_BYTES:
        raise DataError(f"larger than {decoding.MAX_BYTES >> 20} MiB")
    return data
