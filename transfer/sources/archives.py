"""Archives of photographs: checked before they are trusted, and read in the three layouts they come in."""

import io
import re
import stat
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import Field

from transfer.runtime import disk, params
from transfer.runtime.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})

_CHUNK = 1 << 20
_AT_ONCE = 1 << 24  # bytes that zipfile reads at once when it seeks
_LISTED = 128  # bytes that a member may take in the list of members, on average; the shortest take 46
_LOCAL_HEADER = 30  # bytes before a member, and its name
_ENCRYPTED = 0x1
# zipfile unpacks no more than it is asked for by these two methods alone
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, zlib.error)

_UNPRINTABLE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Limits(params.Section):
    """What an archive may hold at most, so that none fills the memory or the disk, or keeps the machine busy for ever.

    Args:
        members: files and folders.
        gigabytes: what it unpacks to.
        expansion: what it unpacks to, in times its own size; photographs hardly compress, bombs do by thousands.
    """

    members: int = Field(ge=1, le=10_000_000)
    gigabytes: float = Field(gt=0)
    expansion: float = Field(ge=1)


class LimitExceeded(DataError):
    """An archive holds more than its limits allow."""


def is_photograph(path: PurePosixPath) -> bool:
    """Whether a path is one of a photograph: by its ending, and in nothing hidden or left behind by macOS."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


@contextmanager
def open_archive(path: Path, *, limits: Limits | None = None, name: str | None = None) -> Iterator[zipfile.ZipFile]:
    """Open an archive, none of whose members has been read yet.

    Args:
        path: the archive.
        limits: what it may hold; None for one that has been checked before.
        name: how the user knows it, where that is not the file's own name.

    Raises:
        TooMuch: it states more than its limits allow.
        DataError: the file is no zip archive, or its members overlap, lead out of it or are links.
    """
    with path.open("rb") as file, _opened(file, limits, name or path.name) as archive:
        yield archive


def check(path: Path, *, limits: Limits, name: str | None = None) -> None:
    """Read an archive through and refuse it unless it is whole and harmless.

    Args:
        path: the archive.
        limits: what it may hold.
        name: how the user knows it, where that is not the file's own name.

    Raises:
        TooMuch: it states more than its limits allow; nothing has been unpacked then.
        DataError: the file is no zip archive, is encrypted or damaged, is compressed in an unusual way, or its members
            overlap, lead out of it or are links.
        OSError: the disk refuses.
    """
    with open_archive(path, limits=limits, name=name) as archive:
        try:
            for member in archive.infolist():
                deque(_chunks(archive, member), maxlen=0)
        except zipfile.BadZipFile as error:
            raise _not_whole(name or path.name, path.stat().st_size, error) from None


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, limits: Limits, name: str) -> None:
    """Write a member that is an archive itself to a file; what it states is looked at before.

    Args:
        archive: as from `opened`.
        member: the archive in it; no more is written of it than is announced.
        target: where to.
        limits: what the member may hold.
        name: how the user knows the member.

    Raises:
        TooMuch: it states more than its limits allow.
        DataError: it is damaged or no zip archive, or its members overlap, lead out of it or are links.
        DiskError: the disk has no room for it, or refuses.
    """
    try:
        with archive.open(member) as wrapped, _opened(wrapped, limits, name):
            pass
        with disk.space_for({target.parent: member.file_size}), target.open("wb") as file:
            file.writelines(_chunks(archive, member))
    except _DAMAGE as error:
        raise _not_whole(name, member.file_size, error) from None


def photographs(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Find the photographs of an archive, whatever its layout, in a fixed order; `read` reads them one by one."""
    found = [one for one in archive.infolist() if not one.is_dir() and is_photograph(PurePosixPath(one.filename))]
    return sorted(found, key=lambda member: member.filename)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, most: int) -> bytes:
    """Read a photograph of an archive.

    Args:
        archive: as from `opened`.
        member: the photograph.
        most: bytes it may have.

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


class _Frugal:
    """A file of which no more is read at once than the list of an archive's members may take; archives may lie."""

    def __init__(self, file: IO[bytes], limits: Limits, name: str) -> None:
        self._file, self._limits, self._name = file, limits, name
        self.name = getattr(file, "name", name)  # what an archive calls itself by
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        if size > max(self._limits.members * _LISTED, _AT_ONCE):
            raise _too_much(self._name, self._limits, f"a list of members of {size:,} bytes")
        return self._file.read(size)


@contextmanager
def _opened(file: IO[bytes], limits: Limits | None, name: str) -> Iterator[zipfile.ZipFile]:
    size = file.seek(0, io.SEEK_END)
    try:
        archive = _listed(_Frugal(file, limits, name) if limits else file)
        _refuse_overlaps(archive.infolist(), size)
    except _DAMAGE as error:
        raise _not_whole(name, size, error) from None
    with archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if limits and not _allowed(limits, members=len(members), size=size, total=total):
            raise _too_much(name, limits, f"{len(members):,} members, {size:,} bytes that unpack to {total:,}")
        for member in members:
            _refuse_hostile(member)
        yield archive


def _listed(file: IO[bytes] | _Frugal) -> zipfile.ZipFile:
    """The archive; names are read as UTF-8, which macOS writes without saying so, or else as zip's old CP437."""
    try:
        return zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(file)


def _allowed(limits: Limits, *, members: int, size: int, total: int) -> bool:
    return members <= limits.members and total <= min(limits.gigabytes * 1e9, limits.expansion * size)


def _not_whole(name: str, size: int, error: Exception) -> DataError:
    return DataError(f"{name} must be a whole zip archive. Received: {size:,} bytes, {error}. Fetch or pack it again.")


def _too_much(name: str, limits: Limits, received: str) -> LimitExceeded:
    return LimitExceeded(
        f"{name} may hold {limits.members:,} members, and unpack to {limits.gigabytes:g} GB and to "
        f"{limits.expansion:g} times its size at most. Received: {received}. Pack less into one archive."
    )


def _refuse_overlaps(members: Iterable[zipfile.ZipInfo], size: int) -> None:
    """Refuse members that share bytes: few bytes can be many members then."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise zipfile.BadZipFile("members that overlap")
        end = member.header_offset + _LOCAL_HEADER + member.compress_size
    if end > size:
        raise zipfile.BadZipFile("a member beyond its end")


def _refuse_hostile(member: zipfile.ZipInfo) -> None:
    name = member.filename
    leads_out = name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:[/\\]", name)
    if not name or leads_out or _UNPRINTABLE.search(name) or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            f"An archive's members must be plain files below it. Received: {name!r}. "
            "Rename it; if the photographs came packed, pack them again."
        )


def _refuse_closed(member: zipfile.ZipInfo) -> None:
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"An archive must not be encrypted. Received: {member.filename!r} with a password.")
    if member.compress_type not in _METHODS:
        raise DataError(
            f"An archive's members must be stored or deflated, as zip does it. Received: {member.filename!r} packed "
            f"by method {member.compress_type}. Pack the photographs again."
        )


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """A member from its beginning to its end; zipfile compares its checksum there and reads no more than announced."""
    _refuse_closed(member)
    try:
        with archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except zipfile.BadZipFile:
        raise
    except (*_DAMAGE, OSError) as error:
        disk.reraise_disk_error(error, archive.filename)
        raise zipfile.BadZipFile(f"{member.filename!r}: {error}") from None
