import errno
import io
import os
import re
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from tests.damage import damaged
from transfer.runtime.errors import DataError
from transfer.sources import archives, layouts
from transfer.sources.archives import Limits

LIMITS = Limits(members=1000, gigabytes=0.05, expansion=100)
DAMAGED = pytest.mark.reliability(
    "archives", "a changed byte in a member", "exit 65; the message has the name of the member"
)
HOSTILE = pytest.mark.reliability(
    "archives",
    "members with a path outside the archive, or an absolute path",
    "exit 65 before a member is read; the message has the path",
)
NAMES = pytest.mark.reliability(
    "archives",
    "names in UTF-8, with or without the flag for it",
    "decoded correctly; exit 65 if a name with the flag is not UTF-8",
)
BOMB = pytest.mark.reliability(
    "archives",
    "a bomb: too many members, or few bytes that unpack to many",
    "exit 65 before it is unpacked; the message has the limits of `download.limits` and the sizes",
)
WRONG_SIZES = pytest.mark.reliability(
    "archives", "wrong sizes or positions in the central directory", "exit 65; the memory in use stays small"
)


def _packed(*names: str, data: bytes = b"photo", method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), data, method)  # the same bytes every day
    return file.getvalue()


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        (tmp_path / "photos.zip").write_bytes(data)
        return tmp_path / "photos.zip"

    return save


Save = Callable[[bytes], Path]


@HOSTILE
@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "C:\\a.jpg", "a/b\n.jpg", "a/\x85.jpg"])
def test_path_outside_the_archive_is_refused(name: str, saved: Save) -> None:
    """A member cannot have the path of a file outside the archive."""
    with pytest.raises(DataError, match="plain files"), archives.open_archive(saved(_packed(name))):
        pass


@pytest.mark.reliability("archives", "backslashes of old Windows programs", "exit 65; the message has the reason")
def test_backslashes_are_named_as_the_reason(saved: Save) -> None:
    """The message has the backslashes, and says to pack the photographs again."""
    path, message = saved(_packed("a\\b.jpg")), r"separated by `/`.*'a\\\\b\.jpg', with backslashes.*again"
    with pytest.raises(DataError, match=message), archives.open_archive(path):
        pass


@HOSTILE
def test_member_without_a_name_is_refused(saved: Save) -> None:
    """Python cuts a name at a zero byte, and fails at an empty name."""
    with pytest.raises(DataError, match=r"plain files .* Received: ''"):
        archives.check(saved(_packed("nameless.jpg").replace(b"nameless", b"\0ameless")), limits=LIMITS)


@pytest.mark.reliability("archives", "a symbolic link", "exit 65; the message has its name")
def test_link_is_refused(saved: Save) -> None:
    """A member cannot be a symbolic link."""
    link = zipfile.ZipInfo("cats/1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"plain files .* Received: 'cats/1\.jpg'"):
        archives.check(saved(file.getvalue()), limits=LIMITS)


def _without_flag(data: bytes) -> bytes:
    """Return an archive without the flag for UTF-8, which follows version 2.0 in local headers and in the directory."""
    return data.replace(b"\x14\0\0\x08", b"\x14\0\0\0")


@NAMES
@pytest.mark.parametrize(
    ("packed", "class_name"),
    [
        (_packed("Füchse/1.jpg", "Mäuse/1.jpg"), "Füchse"),
        (_without_flag(_packed("Füchse/1.jpg", "Mäuse/1.jpg")), "Füchse"),
        (_without_flag(_packed("Fu\u0308chse/1.jpg", "Ma\u0308use/1.jpg")), "Füchse"),
    ],
    ids=["UTF-8", "UTF-8 without the flag", "decomposed letters"],
)
def test_names_are_decoded(packed: bytes, class_name: str, saved: Save) -> None:
    """Archives of Linux and macOS have the class names that the user sees, and can be read."""
    with archives.open_archive(saved(packed), limits=LIMITS) as archive:
        [first, _] = layouts.candidates(archive)
        assert first.class_name == class_name
        assert archive.read(first.member) == b"photo"


@NAMES
def test_invalid_utf_8_with_the_flag_is_refused(saved: Save) -> None:
    """A name that has the flag for UTF-8 and is not UTF-8 is damage."""
    with pytest.raises(DataError, match=r"complete zip archive.*utf-8"):
        archives.check(saved(_packed("Füchse/1.jpg").replace("ü".encode(), b"\xff\xff")), limits=LIMITS)


def test_complete_archive_is_accepted(saved: Save) -> None:
    """Members may be stored or deflated."""
    archives.check(saved(_packed("a/1.jpg")), limits=LIMITS)
    archives.check(saved(_packed("a/1.jpg", method=zipfile.ZIP_DEFLATED)), limits=LIMITS)


@DAMAGED
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_byte_is_noticed(saved: Save, method: int) -> None:
    """One changed byte in a photograph is noticed, stored or deflated."""
    data = bytearray(_packed("a/1.jpg", data=bytes(range(256)) * 4, method=method))
    data[60] ^= 0x55
    with pytest.raises(DataError, match=r"photos\.zip must be a complete zip archive.*'a/1\.jpg'"):
        archives.check(saved(data), limits=LIMITS)


@pytest.mark.reliability(
    "archives", "packed with bzip2, LZMA or another method", "exit 65; the message has the name of the member"
)
@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_unusual_methods_are_refused(saved: Save, method: int) -> None:
    """Methods that zipfile unpacks in one call, however large the result, are refused."""
    path = saved(_packed("a/1.jpg", method=method))
    with pytest.raises(DataError, match=rf"stored or deflated.*'a/1\.jpg' packed by method {method}"):
        archives.check(path, limits=LIMITS)


@pytest.mark.reliability("archives", "not a zip archive", "exit 65; the message has its name and size")
@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_other_file_is_refused(saved: Save, data: bytes) -> None:
    """The message about a file that is not a zip archive has its size."""
    with pytest.raises(DataError, match=rf"photos\.zip must be a complete zip archive. Received: {len(data)} bytes"):
        archives.check(saved(data), limits=LIMITS)


@pytest.mark.reliability("archives", "truncated", "exit 65; the message has its name and size")
def test_truncated_archive_is_refused(saved: Save) -> None:
    """An archive without its end, or without its beginning, is refused."""
    data = _packed("a/1.jpg", "a/2.jpg")
    for part in (data[:-30], data[: len(data) // 2], data[50:]):
        with pytest.raises(
            DataError, match=rf"photos\.zip must be a complete zip archive. Received: {len(part)} bytes"
        ):
            archives.check(saved(part), limits=LIMITS)


def test_message_has_the_name_that_the_user_knows(tmp_path: Path) -> None:
    """A message about a temporary file has the given name."""
    (tmp_path / ".photos.zip.1").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"^all\.zip/train\.zip must be"):
        archives.check(tmp_path / ".photos.zip.1", limits=LIMITS, name="all.zip/train.zip")


@BOMB
@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (Limits(members=1000, gigabytes=1, expansion=100), ["a/1.bmp"]),
        (Limits(members=1000, gigabytes=0.001, expansion=10_000), ["a/1.bmp"]),
        (Limits(members=2, gigabytes=1, expansion=10_000), ["a/1.bmp", "a/2.bmp", "b/1.bmp"]),
    ],
    ids=["expansion", "gigabytes", "members"],
)
def test_bomb_is_refused(limits: Limits, names: list[str], saved: Save) -> None:
    """An archive that exceeds a limit is refused before it is unpacked, with the limits and its sizes."""
    path = saved(_packed(*names, data=bytes(2_000_000), method=zipfile.ZIP_DEFLATED))
    received = rf"{len(names)} members, [\d,]+ bytes that unpack to {len(names) * 2_000_000:,}"
    with pytest.raises(
        archives.LimitExceeded, match=rf"photos\.zip may hold .* times its size\. Received: {received}\. Pack less"
    ):
        archives.check(path, limits=limits)


@BOMB
def test_directory_of_a_million_members_is_not_read(saved: Save) -> None:
    """A central directory is refused by its size: it would need ten times as much memory."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 788, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 1_000_000 * len(entry), 0, 0)
    path = saved(entry * 1_000_000 + end)
    tracemalloc.start()
    with pytest.raises(archives.LimitExceeded, match="a list of members of 46,000,000 bytes"):
        archives.check(path, limits=LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.reliability(
    "archives", "a bomb in an archive in an archive", "exit 65 before it is unpacked; the message has both names"
)
def test_archive_in_an_archive_is_checked_before_it_is_unpacked(saved: Save, tmp_path: Path) -> None:
    """The central directory of a train.zip is compared with the limits before a byte of it is written."""
    bomb = _packed("a/1.bmp", data=bytes(2_000_000), method=zipfile.ZIP_DEFLATED)
    target = tmp_path / "train.zip"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archives.open_archive(saved(_packed("train.zip", data=bomb, method=method)), limits=LIMITS) as outer:
            [inner] = outer.infolist()
            with pytest.raises(archives.LimitExceeded, match=r"^all\.zip/train\.zip may hold"):
                archives.unpack(outer, inner, target, limits=LIMITS, name="all.zip/train.zip")
            assert not target.exists()


def _falsified(change: Callable[[list[zipfile.ZipInfo]], None], *, data: bytes = b"photo") -> bytes:
    """Return an archive whose central directory is changed before it is written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.jpg", "b/1.jpg"):
            archive.writestr(name, data)
        change(archive.filelist)
    return file.getvalue()


def _announce_less(members: list[zipfile.ZipInfo]) -> None:
    members[0].file_size = 100


def _announce_more(members: list[zipfile.ZipInfo]) -> None:
    members[0].file_size = 1 << 60


def _extend_beyond_the_end(members: list[zipfile.ZipInfo]) -> None:
    members[1].compress_size = 1 << 40


def _overlap(members: list[zipfile.ZipInfo]) -> None:
    members[1].header_offset = members[0].header_offset


@WRONG_SIZES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_announce_less, "Bad CRC-32"),
        (_announce_more, "that unpack to 1,152,9"),
        (_extend_beyond_the_end, "a member beyond its end"),
        (_overlap, "members that overlap"),
    ],
)
def test_wrong_sizes_are_refused(change: Callable[[list[zipfile.ZipInfo]], None], message: str, saved: Save) -> None:
    """A member that is larger than announced, huge by its announcement, or shares bytes with another, is refused."""
    path = saved(_falsified(change, data=bytes(1_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        archives.check(path, limits=Limits(members=10, gigabytes=1, expansion=10_000))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.reliability("archives", "encrypted", "exit 65; the message has the reason")
def test_encrypted_archive_is_refused(saved: Save) -> None:
    """The message says that the archive has a password."""
    data = _packed("a/1.jpg")
    directory = data.index(b"PK\x01\x02")
    with pytest.raises(DataError, match=r"'a/1\.jpg' with a password"):
        archives.check(saved(data[: directory + 8] + b"\x01" + data[directory + 9 :]), limits=LIMITS)


def test_photographs_are_read_one_by_one() -> None:
    """Without regard to layout, photographs are sorted by name; one that is too large does not affect the others."""
    archive = zipfile.ZipFile(io.BytesIO(_packed("b/2.jpg", "notes.txt", "1.PNG")))
    members = archives.photographs(archive)
    assert [member.filename for member in members] == ["1.PNG", "b/2.jpg"]
    assert [archives.read_member(archive, member, most=5) for member in members] == [b"photo", b"photo"]
    with pytest.raises(DataError, match=r"^larger than 0 MiB$"):
        archives.read_member(archive, members[0], most=4)


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "photos.zip"


@pytest.mark.reliability(
    "archives", "the disk fails while an archive is read", "exit 74; the archive is named, not called damaged"
)
@pytest.mark.parametrize("limits", [LIMITS, None])
def test_disk_error_is_not_damage(saved: Save, monkeypatch: pytest.MonkeyPatch, limits: Limits | None) -> None:
    """An error of the disk while a member is read has the path of the archive."""
    path = saved(_packed("cat/1.jpg", "dog/1.jpg"))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with archives.open_archive(path, limits=limits) as archive:
        member = archive.infolist()[0]
        monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
        with pytest.raises(OSError, match=re.escape(str(path))):
            archives.read_member(archive, member, most=1000)


@pytest.mark.reliability("archives", "any damage (Hypothesis)", "one line of error, or complete photographs")
@given(
    data=damaged(
        _packed("train/cat.1.jpg", "train/dog.1.jpg"),
        _packed("cat/1.jpg", "dog/1.jpg", data=bytes(500), method=zipfile.ZIP_DEFLATED),
        _packed("Füchse/1.jpg", "Mäuse/1.jpg", method=zipfile.ZIP_BZIP2),
    )
)
def test_damaged_archive_is_refused_in_one_line_or_is_complete(data: bytes, path: Path) -> None:
    """A damaged archive is refused with a reason, or each of its members has the content of its checksum."""
    path.write_bytes(data)
    message = _message(path)
    assert len(message.splitlines()) <= 1
    try:
        with archives.open_archive(path, limits=LIMITS) as archive:
            reasons = [_reason(archive, member) for member in archives.photographs(archive)]
    except DataError:
        assert message
    else:
        assert all(len(reason.splitlines()) <= 1 for reason in reasons)


def _message(path: Path) -> str:
    try:
        archives.check(path, limits=LIMITS)
        with archives.open_archive(path) as archive:
            layouts.candidates(archive)
    except DataError as error:
        return str(error)
    return ""


def _reason(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    try:
        archives.read_member(archive, member, most=1000)
    except DataError as error:
        return str(error)
    return ""
