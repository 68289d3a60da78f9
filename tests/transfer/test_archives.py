import io
import stat
import zipfile
from pathlib import Path

import pytest

from transfer import archives
from transfer.archives import Candidate
from transfer.errors import DataError


def _archive(*names: str, data: bytes = b"photo") -> zipfile.ZipFile:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, data)
    return zipfile.ZipFile(file)


def _saved(path: Path, *names: str, data: bytes = b"photo", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, data)
    return path


def test_kaggles_layout() -> None:
    """Kaggle's names give the classes and stay as they are; its unlabelled test photographs are left out."""
    archive = _archive("train/", "train/dog.0.jpg", "train/cat.10.jpg", "train/cat.2.jpg", "test1/1.jpg")
    assert archives.candidates(archive) == [
        Candidate("cat", "cat.10.jpg", "train/cat.10.jpg"),
        Candidate("cat", "cat.2.jpg", "train/cat.2.jpg"),
        Candidate("dog", "dog.0.jpg", "train/dog.0.jpg"),
    ]


def test_microsofts_layout() -> None:
    """Microsoft's folders give the classes in lower case; documents and `Thumbs.db` are left out."""
    archive = _archive("PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Cat/Thumbs.db", "licence.docx")
    assert archives.candidates(archive) == [
        Candidate("cat", "cat.0.jpg", "PetImages/Cat/0.jpg"),
        Candidate("dog", "dog.0.jpg", "PetImages/Dog/0.jpg"),
    ]


def test_class_folders() -> None:
    """Folders give the classes under their own names, at the top or in one folder around them."""
    names = ["Ant/a.PNG", "bee/a.PNG", "wasp sp-1/b.webp"]
    expected = ["Ant.a.PNG", "bee.a.PNG", "wasp sp-1.b.webp"]
    assert [photo.name for photo in archives.candidates(_archive(*names))] == expected
    assert [photo.name for photo in archives.candidates(_archive(*(f"mine/{name}" for name in names)))] == expected


def test_class_folders_with_kaggles_names() -> None:
    """In class folders the folder tells the class, whatever the files are called."""
    found = archives.candidates(_archive("good/cat.0.jpg", "bad/dog.0.jpg"))
    assert [photo.class_name for photo in found] == ["bad", "good"]


def test_left_behind_files_are_no_photographs() -> None:
    """What macOS leaves behind and hidden files are left out."""
    found = archives.candidates(_archive("a/1.jpg", "b/1.jpg", "__MACOSX/a/._1.jpg", "a/.2.jpg", ".x/1.jpg"))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.txt", "b.heic", "c.heic"], "2 of .heic"),
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
        (["PetImages/Cat/1.jpg", "PetImages/cat/1.jpg", "PetImages/Dog/1.jpg"], "`cat.1.jpg` 2 times"),
    ],
)
def test_unusable_layouts(names: list[str], message: str) -> None:
    """A layout that does not tell the classes is refused with what was found."""
    with pytest.raises(DataError, match=message):
        archives.candidates(_archive(*names))


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "C:\\a.jpg", "a\\b.jpg", "a/b\n.jpg"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    """An archive cannot name a file outside its folder."""
    with pytest.raises(DataError, match="plain files"):
        archives.candidates(_archive("cats/1.jpg", "dogs/1.jpg", name))
    with pytest.raises(DataError, match="plain files"):
        archives.check(_saved(tmp_path / "photos.zip", name))


def test_links_are_refused(tmp_path: Path) -> None:
    """An archive cannot hold symbolic links."""
    link = zipfile.ZipInfo("cats/1.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="plain files"):
        archives.check(tmp_path / "photos.zip")


def test_giants_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph that would fill the memory is refused before it is read."""
    monkeypatch.setattr(archives, "MAX_PHOTOGRAPH", 4)
    with pytest.raises(DataError, match="5"):
        archives.candidates(_archive("cats/1.jpg", "dogs/1.jpg"))


def test_whole_archive_passes(tmp_path: Path) -> None:
    """A whole archive passes, stored or compressed."""
    archives.check(_saved(tmp_path / "stored.zip", "a/1.jpg"))
    archives.check(_saved(tmp_path / "deflated.zip", "a/1.jpg", method=zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_changed_byte_is_noticed(tmp_path: Path, method: int) -> None:
    """A single changed byte in a photograph is noticed, however it is compressed."""
    path = _saved(tmp_path / "photos.zip", "a/1.jpg", data=bytes(range(256)) * 4, method=method)
    data = bytearray(path.read_bytes())
    data[60] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataError, match="whole zip archive"):
        archives.check(path)


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_no_archives(tmp_path: Path, data: bytes) -> None:
    """What is no zip archive is refused with its size."""
    (tmp_path / "photos.zip").write_bytes(data)
    with pytest.raises(DataError, match=f"{len(data)} bytes"):
        archives.check(tmp_path / "photos.zip")


def test_cut_archive_is_refused(tmp_path: Path) -> None:
    """An archive without its end is refused."""
    path = _saved(tmp_path / "photos.zip", "a/1.jpg", "a/2.jpg")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="whole zip archive"):
        archives.check(path)


def test_archive_is_called_what_the_user_calls_it(tmp_path: Path) -> None:
    """An archive that was unwrapped to somewhere is named in the refusal by where it came from."""
    (tmp_path / ".photos.zip.1").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"^all\.zip/train\.zip must be"):
        archives.check(tmp_path / ".photos.zip.1", name="all.zip/train.zip")


def test_bombs_are_refused(tmp_path: Path) -> None:
    """An archive that unpacks to hundreds of times its size is refused before it is unpacked."""
    path = _saved(tmp_path / "photos.zip", "a/1.bmp", data=bytes(10_000_000), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="times its size"):
        archives.check(path)


def test_encrypted_archives_are_refused(tmp_path: Path) -> None:
    """An archive with a password is refused, saying so."""
    path = _saved(tmp_path / "photos.zip", "a/1.jpg")
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    path.write_bytes(data[: directory + 8] + b"\x01" + data[directory + 9 :])
    with pytest.raises(DataError, match="password"):
        archives.check(path)


def test_members_are_named_as_packed() -> None:
    """An archive packed as `./cat/1.jpg` is understood, and its members are found under the names they have."""
    archive = _archive("./cat/1.jpg", "./dog//2.jpg")
    found = archives.candidates(archive)
    assert [(one.class_name, one.name) for one in found] == [("cat", "cat.1.jpg"), ("dog", "dog.2.jpg")]
    assert [archive.read(one.member) for one in found] == [b"photo", b"photo"]


def test_photographs_are_found_and_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layout does not matter, photographs come in order of their names; one too large spoils no other."""
    archive = _archive("b/2.jpg", "notes.txt", "1.PNG")
    members = archives.photographs(archive, size=1000)
    assert [member.filename for member in members] == ["1.PNG", "b/2.jpg"]
    assert [archives.read(archive, member) for member in members] == [b"photo", b"photo"]
    monkeypatch.setattr(archives, "MAX_PHOTOGRAPH", 4)
    with pytest.raises(DataError, match=r"'1\.PNG' with 5"):
        archives.read(archive, members[0])


def test_hostile_archives_give_no_photographs() -> None:
    """An archive is refused before anything of it is read, if it leads out of itself or announces too much."""
    with pytest.raises(DataError, match="plain files below it"):
        archives.photographs(_archive("1.jpg", "../2.jpg"), size=1000)
    with pytest.raises(DataError, match="times its size"):
        archives.photographs(_archive("1.jpg", data=bytes(1000)), size=9)
