"""Archives: zip files of photographs, checked for damage, bombs and hostile names before they are read."""

import io
import re
import stat
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import Field

from transfer.runtime import disk, files, params
from transfer.runtime.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jfi", ".jpe", ".pjpeg", ".png", ".gif", ".bmp", ".webp"}  # and what may be decodable:
    | {".avif", ".heic", ".heif", ".tif", ".tiff"}
)

_CHUNK = 1 << 20
_READ_LIMIT = 1 << 24  # bytes; zipfile reads as many in one call when it seeks
_ENTRY = 128  # bytes of a member in the central directory, on average; the shortest has 46
_LOCAL_HEADER = 30  # bytes before the name and the content of a member
_ENCRYPTED = 0x1
# with any other method zipfile may unpack more than the requested bytes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, zlib.error)

_FOLDERS_OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"})
_UNPRINTABLE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Limits(params.Section):
    """The limits of an archive: a larger one could fill the memory or the disk, or never be read to its end.

    Args:
        members: the number of files and folders.
        gigabytes: the unpacked size.
        expansion: the unpacked size divided by the size of the archive. Photographs have about 1, bombs thousands.
    """

    members: int = Field(ge=1, le=10_000_000)
    gigabytes: float = Field(gt=0)
    expansion: float = Field(ge=1)


class LimitExceeded(DataError):
    """An archive exceeds its limits."""


def is_photograph(path: PurePosixPath) -> bool:
    """Return whether a path has the suffix of an image, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def is_hidden(path: PurePosixPath) -> bool:
    """Return whether a part of a path begins with a dot, or is a folder of a system, such as `__MACOSX` or `@eaDir`."""
    return any(part.startswith(".") or part in _FOLDERS_OF_SYSTEMS for part in path.parts)


@contextmanager
def open_archive(path: Path, *, limits: Limits | None = None, name: str | None = None) -> Iterator[zipfile.ZipFile]:
    """Open an archive and check its central directory; its members are not read.

    Args:
        path: the archive.
        limits: of the archive; None if it was checked before.
        name: of the archive in messages, if it differs from the file's name.

    Raises:
        LimitExceeded: the central directory exceeds the limits.
        DataError: the file is not a zip archive, or its members overlap, are links, or have a path outside the archive.
    """
    with files.open_regular(path) as file, _opened(file, limits, name or path.name) as archive:
        yield archive


def check(path: Path, *, limits: Limits, name: str | None = None) -> None:
    """Read all of an archive, and check that it is complete and harmless.

    Args:
        path: the archive.
        limits: of the archive.
        name: of the archive in messages, if it differs from the file's name.

    Raises:
        LimitExceeded: the archive exceeds the limits; nothing was unpacked.
        DataError: the file is not a zip archive, it is encrypted or damaged, its compression method is unusual, or its
            members overlap, are links, or have a path outside the archive.
        OSError: the disk fails.
    """
    with open_archive(path, limits=limits, name=name) as archive:
        try:
            for member in archive.infolist():
                deque(_chunks(archive, member), maxlen=0)
        except zipfile.BadZipFile as error:
            raise _incomplete(name or path.name, path.stat().st_size, error) from None


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, limits: Limits, name: str) -> None:
    """Write a member that is an archive to a file, after its own central directory is checked.

    Args:
        archive: the outer archive, from `open_archive`.
        member: the inner archive; no more bytes are written than its announced size.
        target: the path to write to.
        limits: of the inner archive.
        name: of the inner archive in messages.

    Raises:
        LimitExceeded: the inner archive exceeds the limits.
        DataError: it is damaged or not a zip archive, or its members overlap, are links, or have a path outside it.
        DiskError: the disk has too little space, or fails.
    """
    try:
        with archive.open(member) as inner, _opened(inner, limits, name):
            pass
        with disk.space_for({target.parent: member.file_size}), target.open("wb") as file:
            file.writelines(_chunks(archive, member))
    except _DAMAGE as error:
        raise _incomplete(name, member.file_size, error) from None


def photographs(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the members of an archive that are photographs, in any layout, sorted by their names."""
    files = [member for member in archive.infolist() if not member.is_dir()]
    images = [member for member in files if is_photograph(PurePosixPath(member.filename))]
    return sorted(images, key=lambda member: member.filename)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, most: int) -> bytes:
    """Return the bytes of a photograph in an archive.

    Args:
        archive: from `open_archive`.
        member: the photograph.
        most: the largest size in bytes.

    Raises:
        DataError: it is larger, damaged or encrypted; the text is the reason.
    """
    if member.file_size > most:
        raise DataError(f"larger than {most >> 20} MiB")
    try:
        data = b"".join(_chunks(archive, member))
    except zipfile.BadZipFile as error:
        raise DataError(f"damaged in the archive ({error})") from None
    if len(data) != member.file_size:
        raise DataError("cut short in the archive")
    return data


class _LimitedReads:
    """A file that refuses to read a central directory larger than the limits: zipfile reads it in one call."""

    def __init__(self, file: IO[bytes], limits: Limits, name: str) -> None:
        self._file, self._limits, self._name = file, limits, name
        self.name = getattr(file, "name", name)  # zipfile takes the archive's file name from here
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        if size > max(self._limits.members * _ENTRY, _READ_LIMIT):
            raise _limit_exceeded(self._name, self._limits, f"a list of members of {size:,} bytes")
        return self._file.read(size)


@contextmanager
def _opened(file: IO[bytes], limits: Limits | None, name: str) -> Iterator[zipfile.ZipFile]:
    size = file.seek(0, io.SEEK_END)
    try:
        archive = _read_directory(_LimitedReads(file, limits, name) if limits else file)
        _check_positions(archive.infolist(), size)
    except _DAMAGE as error:
        raise _incomplete(name, size, error) from None
    with archive:
        if limits:
            _check_limits(archive.infolist(), limits, size, name)
        for member in archive.infolist():
            check_member(member)
        yield archive


def _read_directory(file: IO[bytes] | _LimitedReads) -> zipfile.ZipFile:
    """Read the names of members as UTF-8, which macOS writes without the flag for it, or else as CP437."""
    try:
        return zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(file)


def check_member(member: zipfile.ZipInfo) -> None:
    """Check that a member is a plain file or folder with a printable path inside the archive.

    Raises:
        DataError: it is a link, or its path is empty, absolute, outside the archive, or not printable.
    """
    name = member.filename
    is_outside = name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:[/\\]", name)
    if "\\" in name and not is_outside:
        raise DataError(
            f"The folders in an archive must be separated by `/`. Received: {name!r}, with backslashes, as old Windows "
            "programs write them. Pack the photographs again with another program, such as 7-Zip or the Explorer."
        )
    if not name or is_outside or _UNPRINTABLE.search(name) or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            f"The members of an archive must be plain files inside it. Received: {name!r}. "
            "Rename the file, or pack the photographs again."
        )


def _check_limits(members: Sequence[zipfile.ZipInfo], limits: Limits, size: int, name: str) -> None:
    total = sum(member.file_size for member in members)
    if len(members) > limits.members or total > min(limits.gigabytes * 1e9, limits.expansion * size):
        raise _limit_exceeded(name, limits, f"{len(members):,} members, {size:,} bytes that unpack to {total:,}")


def _check_positions(members: Iterable[zipfile.ZipInfo], size: int) -> None:
    """Check that no two members share bytes: a small archive could have any number of large members."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise zipfile.BadZipFile("members that overlap")
        end = member.header_offset + _LOCAL_HEADER + member.compress_size
    if end > size:
        raise zipfile.BadZipFile("a member beyond its end")


def _check_readable(member: zipfile.ZipInfo) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"An archive must not be encrypted. Received: {member.filename!r} with a password.")
    if member.compress_type not in _METHODS:
        raise DataError(
            f"The members of an archive must be stored or deflated. Received: {member.filename!r} packed by method "
            f"{member.compress_type}. Pack the photographs again."
        )


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a member; zipfile checks its CRC-32, and reads no more than the announced size."""
    _check_readable(member)
    try:
        with archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except zipfile.BadZipFile:
        raise
    except (*_DAMAGE, OSError) as error:
        disk.reraise_disk_error(error, archive.filename)
        raise zipfile.BadZipFile(f"{member.filename!r}: {error}") from None


def _incomplete(name: str, size: int, error: Exception) -> DataError:
    return DataError(
        f"{name} must be a complete zip archive. Received: {size:,} bytes, {error}. Download or pack it again."
    )


def _limit_exceeded(name: str, limits: Limits, received: str) -> LimitExceeded:
    return LimitExceeded(
        f"{name} may hold at most {limits.members:,} members, and unpack to at most {limits.gigabytes:g} GB and "
        f"{limits.expansion:g} times its size. Received: {received}. Pack less into one archive."
    )
