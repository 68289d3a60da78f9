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
from transfer.sources.layouts import Candidate

LIMITS = Limits(members=1000, gigabytes=0.05, expansion=100)
DAMAGED = pytest.mark.reliability("archives", "damaged: one byte changed in a member", "refused with the member's name")
HOSTILE = pytest.mark.reliability(
    "archives", "paths that lead out of it, absolute names", "refused with the name, before anything is read"
)
LAYOUT = pytest.mark.reliability(
    "archives", "an unexpected layout", "refused with what was found and the layouts that are known"
)
NAMES = pytest.mark.reliability(
    "archives",
    "names that are not UTF-8, or UTF-8 without saying so",
    "read as what they are; refused where they claim to be UTF-8",
)
BOMB = pytest.mark.reliability(
    "archives",
    "a bomb: too many members, or few bytes that unpack to many",
    "refused before it is unpacked, with the limits of `download.limits` and what was found",
)
LIES = pytest.mark.reliability(
    "archives", "sizes and places that are lies", "refused; no more is read than is allowed, and memory stays small"
)


def _packed(*names: str, data: bytes = b"photo", method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), data, method)  # the same bytes every day
    return file.getvalue()


def _archive(*names: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(_packed(*names)))


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        (tmp_path / "photos.zip").write_bytes(data)
        return tmp_path / "photos.zip"

    return save


Save = Callable[[bytes], Path]


def test_kaggles_layout() -> None:
    """Kaggle's names give the classes and stay as they are; its unlabelled test photographs are left out."""
    archive = _archive("train/", "train/dog.0.jpg", "train/cat.10.jpg", "train/cat.2.jpg", "test1/1.jpg")
    assert layouts.candidates(archive) == [
        Candidate("cat", "cat.10.jpg", "train/cat.10.jpg"),
        Candidate("cat", "cat.2.jpg", "train/cat.2.jpg"),
        Candidate("dog", "dog.0.jpg", "train/dog.0.jpg"),
    ]


@pytest.mark.reliability("photographs", "Thumbs.db and documents among them", "left out by their endings")
def test_microsofts_layout() -> None:
    """Microsoft's folders give the classes in lower case; documents and `Thumbs.db` are left out."""
    archive = _archive("PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Cat/Thumbs.db", "licence.docx")
    assert layouts.candidates(archive) == [
        Candidate("cat", "cat.0.jpg", "PetImages/Cat/0.jpg"),
        Candidate("dog", "dog.0.jpg", "PetImages/Dog/0.jpg"),
    ]


def test_class_folders() -> None:
    """Folders give the classes under their own names, at the top or in one folder around them."""
    names = ["Ant/a.PNG", "bee/a.PNG", "wasp sp-1/b.webp"]
    expected = ["Ant.a.PNG", "bee.a.PNG", "wasp sp-1.b.webp"]
    assert [photo.name for photo in layouts.candidates(_archive(*names))] == expected
    assert [photo.name for photo in layouts.candidates(_archive(*(f"mine/{name}" for name in names)))] == expected


def test_class_folders_with_kaggles_names() -> None:
    """In class folders the folder tells the class, whatever the files are called."""
    found = layouts.candidates(_archive("good/cat.0.jpg", "bad/dog.0.jpg"))
    assert [photo.class_name for photo in found] == ["bad", "good"]


def test_left_behind_files_are_no_photographs() -> None:
    """What macOS leaves behind and hidden files are left out."""
    found = layouts.candidates(_archive("a/1.jpg", "b/1.jpg", "__MACOSX/a/._1.jpg", "a/.2.jpg", ".x/1.jpg"))
    assert len(found) == 2


@LAYOUT
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.txt", "b.heic", "c.heic"], r"`cat/1\.jpg`.*`PetImages/Cat/1\.jpg`.* Received: 2 of \.heic \(`b\.heic`\)"),
        (["test1.zip", "sampleSubmission.csv"], r"`train\.zip`.* Received: 1 of \.zip \(`test1\.zip`\), 1 of \.csv"),
        ([], "no files at all"),
        (["cats/1.jpg", "cats/2.jpg"], "only `cats`"),
        (["train/cat.0.jpg", "train/cat.1.jpg", "test1/1.jpg"], "only `cat`"),
        (["cats/1.jpg", "dogs/1.jpg", "cover.jpg"], "`cover.jpg`"),
        (["train/cats/1.jpg", "train/dogs/1.jpg", "test/cats/2.jpg"], "test/cats/2.jpg"),
        (["x/y/cats/1.jpg", "x/y/dogs/1.jpg"], "x/y/cats/1.jpg"),
        (["c,s/1.jpg", "d/1.jpg"], "'c,s'"),
        (["train/c,s.1.jpg", "train/d.1.jpg"], "'c,s'"),
        (["Cat/1.jpg", "dog/1.jpg", "Dog/2.jpg"], "`Dog` and `dog`.*alike.*rename"),
        (["train/cat.1.jpg", "train/Cat.2.jpg", "train/dog.1.jpg"], "`Cat` and `cat`"),
    ],
)
def test_unusable_layouts(names: list[str], message: str) -> None:
    """A layout that does not tell the classes is refused with what was found."""
    with pytest.raises(DataError, match=message):
        layouts.candidates(_archive(*names))


@pytest.mark.reliability("archives", "two members of one name", "refused with the name")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ["PetImages/Cat/1.jpg", "PetImages/cat/1.jpg", "PetImages/Dog/1.jpg"],
        ["cat/1.jpg", "cat/1.jpg", "dog/1.jpg"],
        ["cat/1.jpg", "./cat/1.jpg", "dog/1.jpg"],
    ],
)
def test_names_that_are_there_twice_are_refused(names: list[str]) -> None:
    """Which of two members of one name is meant cannot be told."""
    with pytest.raises(DataError, match=r"`cat\.1\.jpg` 2 times"):
        layouts.candidates(_archive(*names))


@HOSTILE
@pytest.mark.parametrize(
    "name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "C:\\a.jpg", "a\\b.jpg", "a/b\n.jpg", "a/\x85.jpg"]
)
def test_names_that_lead_out_are_refused(name: str, saved: Save) -> None:
    """An archive cannot name a file outside its folder."""
    with pytest.raises(DataError, match="plain files"):
        layouts.candidates(_archive("cats/1.jpg", "dogs/1.jpg", name))
    with pytest.raises(DataError, match="plain files"), archives.open_archive(saved(_packed(name))):
        pass


@HOSTILE
def test_members_without_a_name_are_refused(saved: Save) -> None:
    """Python ends a name at a zero byte, and fails at a member that has none left."""
    with pytest.raises(DataError, match=r"plain files .* Received: ''"):
        archives.check(saved(_packed("nameless.jpg").replace(b"nameless", b"\0ameless")), limits=LIMITS)


@pytest.mark.reliability("archives", "a symbolic link in it", "refused with the name")
def test_links_are_refused(saved: Save) -> None:
    """An archive cannot hold symbolic links."""
    link = zipfile.ZipInfo("cats/1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"plain files .* Received: 'cats/1\.jpg'"):
        archives.check(saved(file.getvalue()), limits=LIMITS)


def _without_flag(data: bytes) -> bytes:
    """The archive without the flag that says that its names are UTF-8, after version 2.0 in both of its lists."""
    return data.replace(b"\x14\0\0\x08", b"\x14\0\0\0")


@NAMES
@pytest.mark.parametrize(
    ("packed", "class_name"),
    [
        (_packed("Füchse/1.jpg", "Mäuse/1.jpg"), "Füchse"),
        (_without_flag(_packed("Füchse/1.jpg", "Mäuse/1.jpg")), "Füchse"),
        (_without_flag(_packed("Fu\u0308chse/1.jpg", "Ma\u0308use/1.jpg")), "Füchse"),
        (_packed("F_chse/1.jpg", "Mause/1.jpg").replace(b"F_", b"F\x81"), "Füchse"),
    ],
    ids=["UTF-8", "UTF-8 without saying so", "letters taken apart", "CP437"],
)
def test_names_are_read_in_the_encodings_that_there_are(packed: bytes, class_name: str, saved: Save) -> None:
    """What Linux, macOS and old programs pack has the class names that the user sees, and can be read."""
    with archives.open_archive(saved(packed), limits=LIMITS) as archive:
        [first, _] = layouts.candidates(archive)
        assert first.class_name == class_name
        assert archive.read(first.member) == b"photo"


@NAMES
def test_names_that_are_not_what_they_claim_to_be_are_refused(saved: Save) -> None:
    """A name that is flagged as UTF-8 and is not says that the archive is damaged."""
    with pytest.raises(DataError, match=r"whole zip archive.*utf-8"):
        archives.check(saved(_packed("Füchse/1.jpg").replace("ü".encode(), b"\xff\xff")), limits=LIMITS)


def test_whole_archive_passes(saved: Save) -> None:
    """A whole archive passes, stored or compressed."""
    archives.check(saved(_packed("a/1.jpg")), limits=LIMITS)
    archives.check(saved(_packed("a/1.jpg", method=zipfile.ZIP_DEFLATED)), limits=LIMITS)


@DAMAGED
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_byte_is_noticed(saved: Save, method: int) -> None:
    """A single changed byte in a photograph is noticed, however it is compressed."""
    data = bytearray(_packed("a/1.jpg", data=bytes(range(256)) * 4, method=method))
    data[60] ^= 0x55
    with pytest.raises(DataError, match=r"photos\.zip must be a whole zip archive.*'a/1\.jpg'"):
        archives.check(saved(data), limits=LIMITS)


@pytest.mark.reliability(
    "archives", "packed in an unusual way, such as bzip2 or LZMA", "refused with the member's name; pack it again"
)
@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_unusual_methods_are_refused(saved: Save, method: int) -> None:
    """What Python unpacks in one go, however large it gets, is not unpacked."""
    path = saved(_packed("a/1.jpg", method=method))
    with pytest.raises(DataError, match=rf"stored or deflated.*'a/1\.jpg' packed by method {method}"):
        archives.check(path, limits=LIMITS)


@pytest.mark.reliability("archives", "no zip archive", "refused with its name and size")
@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_no_archives(saved: Save, data: bytes) -> None:
    """What is no zip archive is refused with its size."""
    with pytest.raises(DataError, match=rf"photos\.zip must be a whole zip archive. Received: {len(data)} bytes"):
        archives.check(saved(data), limits=LIMITS)


@pytest.mark.reliability("archives", "truncated", "refused with its name and size")
def test_cut_archive_is_refused(saved: Save) -> None:
    """An archive without its end, or without its beginning, is refused."""
    whole = _packed("a/1.jpg", "a/2.jpg")
    for cut in (whole[:-30], whole[: len(whole) // 2], whole[50:]):
        with pytest.raises(DataError, match=rf"photos\.zip must be a whole zip archive. Received: {len(cut)} bytes"):
            archives.check(saved(cut), limits=LIMITS)


def test_archive_is_called_what_the_user_calls_it(tmp_path: Path) -> None:
    """An archive that was unwrapped to somewhere is named in the refusal by where it came from."""
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
def test_bombs_are_refused(limits: Limits, names: list[str], saved: Save) -> None:
    """An archive that holds more than it may is refused before it is unpacked, with what may be and what is."""
    path = saved(_packed(*names, data=bytes(2_000_000), method=zipfile.ZIP_DEFLATED))
    received = rf"{len(names)} members, [\d,]+ bytes that unpack to {len(names) * 2_000_000:,}"
    with pytest.raises(
        archives.LimitExceeded, match=rf"photos\.zip may hold .* times its size .* Received: {received}\. Pack less"
    ):
        archives.check(path, limits=limits)


@BOMB
def test_a_list_of_a_million_members_is_not_read(saved: Save) -> None:
    """The list of an archive's members is refused by its length: in memory it takes ten times as much."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 788, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 1_000_000 * len(entry), 0, 0)
    path = saved(entry * 1_000_000 + end)
    tracemalloc.start()
    with pytest.raises(archives.LimitExceeded, match="a list of members of 46,000,000 bytes"):
        archives.check(path, limits=LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


NESTED = pytest.mark.reliability(
    "archives", "a bomb in an archive in an archive", "refused before it is unpacked to the disk, with the name of each"
)


@NESTED
def test_an_archive_in_an_archive_is_looked_at_before_it_is_unpacked(saved: Save, tmp_path: Path) -> None:
    """What a train.zip states is compared with the limits before a byte of it is on the disk."""
    bomb = _packed("a/1.bmp", data=bytes(2_000_000), method=zipfile.ZIP_DEFLATED)
    target = tmp_path / "train.zip"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archives.open_archive(saved(_packed("train.zip", data=bomb, method=method)), limits=LIMITS) as outer:
            [inner] = outer.infolist()
            with pytest.raises(archives.LimitExceeded, match=r"^all\.zip/train\.zip may hold"):
                archives.unpack(outer, inner, target, limits=LIMITS, name="all.zip/train.zip")
            assert not target.exists()


def _lying(lie: Callable[[list[zipfile.ZipInfo]], None], *, data: bytes = b"photo") -> bytes:
    """An archive whose list of members has been changed before it was written."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a/1.jpg", "b/1.jpg"):
            archive.writestr(name, data)
        lie(archive.filelist)
    return file.getvalue()


def _says_small(members: list[zipfile.ZipInfo]) -> None:
    members[0].file_size = 100


def _says_huge(members: list[zipfile.ZipInfo]) -> None:
    members[0].file_size = 1 << 60


def _says_longer(members: list[zipfile.ZipInfo]) -> None:
    members[1].compress_size = 1 << 40


def _says_the_same_place(members: list[zipfile.ZipInfo]) -> None:
    members[1].header_offset = members[0].header_offset


@LIES
@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (_says_small, "Bad CRC-32"),
        (_says_huge, "that unpack to 1,152,9"),
        (_says_longer, "a member beyond its end"),
        (_says_the_same_place, "members that overlap"),
    ],
)
def test_lies_are_found_out(lie: Callable[[list[zipfile.ZipInfo]], None], message: str, saved: Save) -> None:
    """An archive that is larger than it says, or says that it is, or whose members share bytes, is refused."""
    path = saved(_lying(lie, data=bytes(1_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        archives.check(path, limits=Limits(members=10, gigabytes=1, expansion=10_000))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.reliability("archives", "encrypted", "refused, saying so")
def test_encrypted_archives_are_refused(saved: Save) -> None:
    """An archive with a password is refused, saying so."""
    data = _packed("a/1.jpg")
    directory = data.index(b"PK\x01\x02")
    with pytest.raises(DataError, match=r"'a/1\.jpg' with a password"):
        archives.check(saved(data[: directory + 8] + b"\x01" + data[directory + 9 :]), limits=LIMITS)


def test_members_are_named_as_packed() -> None:
    """An archive packed as `./cat/1.jpg` is understood, and its members are found under the names they have."""
    archive = _archive("./cat/1.jpg", "./dog//2.jpg")
    found = layouts.candidates(archive)
    assert [(one.class_name, one.name) for one in found] == [("cat", "cat.1.jpg"), ("dog", "dog.2.jpg")]
    assert [archive.read(one.member) for one in found] == [b"photo", b"photo"]


def test_photographs_are_found_and_read_one_by_one() -> None:
    """Where the layout does not matter, photographs come in order of their names; one too large spoils no other."""
    archive = _archive("b/2.jpg", "notes.txt", "1.PNG")
    members = archives.photographs(archive)
    assert [member.filename for member in members] == ["1.PNG", "b/2.jpg"]
    assert [archives.read_member(archive, member, most=5) for member in members] == [b"photo", b"photo"]
    with pytest.raises(DataError, match=r"^larger than 0 MiB$"):
        archives.read_member(archive, members[0], most=4)


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "photos.zip"


def _refusal(path: Path) -> str:
    try:
        archives.check(path, limits=LIMITS)
        with archives.open_archive(path) as archive:
            layouts.candidates(archive)
    except DataError as refusal:
        return str(refusal)
    return ""


@pytest.mark.reliability(
    "archives", "on a disk that fails while it is read", "the archive is named, not called damaged"
)
@pytest.mark.parametrize("limits", [LIMITS, None])
def test_a_disk_that_fails_is_not_the_archive_s_fault(
    saved: Save, monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    """What the disk refuses while a member is read is said of the archive's file."""
    path = saved(_packed("cat/1.jpg", "dog/1.jpg"))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with archives.open_archive(path, limits=limits) as archive:
        member = archive.infolist()[0]
        monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
        with pytest.raises(OSError, match=re.escape(str(path))):
            archives.read_member(archive, member, most=1000)


@pytest.mark.reliability(
    "archives", "damaged in any way (Hypothesis)", "refused in one line, or its photographs are whole; nothing else"
)
@given(
    data=damaged(
        _packed("train/cat.1.jpg", "train/dog.1.jpg"),
        _packed("cat/1.jpg", "dog/1.jpg", data=bytes(500), method=zipfile.ZIP_DEFLATED),
        _packed("Füchse/1.jpg", "Mäuse/1.jpg", method=zipfile.ZIP_BZIP2),
    )
)
def test_a_damaged_archive_is_refused_in_one_line_or_is_whole(data: bytes, place: Path) -> None:
    """Whatever befell an archive, it is refused with a reason, or each of its members is what its checksum says."""
    place.write_bytes(data)
    refusal = _refusal(place)
    assert len(refusal.splitlines()) <= 1
    try:
        with archives.open_archive(place, limits=LIMITS) as archive:
            reasons = [_reason(archive, member) for member in archives.photographs(archive)]
    except DataError:
        assert refusal
    else:
        assert all(len(reason.splitlines()) <= 1 for reason in reasons)


def _reason(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    try:
        archives.read_member(archive, member, most=1000)
    except DataError as reason:
        return str(reason)
    return ""
