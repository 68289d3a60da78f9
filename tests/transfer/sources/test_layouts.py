import io
import zipfile

import pytest

from transfer.runtime.errors import DataError
from transfer.sources import layouts
from transfer.sources.layouts import Candidate


def _archive(*names: str) -> zipfile.ZipFile:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"photo")
    return zipfile.ZipFile(file)


def test_kaggles_layout() -> None:
    """The file names have the classes and stay as they are; Kaggle's unlabelled test photographs are ignored."""
    archive = _archive("train/", "train/dog.0.jpg", "train/cat.10.jpg", "train/cat.2.jpg", "test1/1.jpg")
    assert layouts.candidates(archive) == [
        Candidate("cat", "cat.10.jpg", "train/cat.10.jpg"),
        Candidate("cat", "cat.2.jpg", "train/cat.2.jpg"),
        Candidate("dog", "dog.0.jpg", "train/dog.0.jpg"),
    ]


@pytest.mark.reliability("photographs", "`Thumbs.db` and documents", "ignored because of their suffixes")
def test_microsofts_layout() -> None:
    """The folders are the classes, in lower case; documents and `Thumbs.db` are ignored."""
    archive = _archive("PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Cat/Thumbs.db", "licence.docx")
    assert layouts.candidates(archive) == [
        Candidate("cat", "cat.0.jpg", "PetImages/Cat/0.jpg"),
        Candidate("dog", "dog.0.jpg", "PetImages/Dog/0.jpg"),
    ]


def test_class_folders() -> None:
    """The folders are the classes, at the top of the archive or in one folder."""
    names = ["Ant/a.PNG", "bee/a.PNG", "wasp sp-1/b.webp"]
    expected = ["Ant.a.PNG", "bee.a.PNG", "wasp sp-1.b.webp"]
    assert [candidate.name for candidate in layouts.candidates(_archive(*names))] == expected
    assert [
        candidate.name for candidate in layouts.candidates(_archive(*(f"mine/{name}" for name in names)))
    ] == expected


def test_class_folders_with_kaggles_file_names() -> None:
    """In class folders the class is the folder, whatever the file names."""
    candidates = layouts.candidates(_archive("good/cat.0.jpg", "bad/dog.0.jpg"))
    assert [candidate.class_name for candidate in candidates] == ["bad", "good"]


def test_hidden_files_are_ignored() -> None:
    """Hidden files and the files that macOS adds are not photographs."""
    assert len(layouts.candidates(_archive("a/1.jpg", "b/1.jpg", "__MACOSX/a/._1.jpg", "a/.2.jpg", ".x/1.jpg"))) == 2


def test_members_keep_their_names() -> None:
    """The members of an archive packed as `./cat/1.jpg` can be read by the names in the candidates."""
    archive = _archive("./cat/1.jpg", "./dog//2.jpg")
    candidates = layouts.candidates(archive)
    assert [candidate.name for candidate in candidates] == ["cat.1.jpg", "dog.2.jpg"]
    assert [archive.read(candidate.member) for candidate in candidates] == [b"photo", b"photo"]


@pytest.mark.reliability(
    "archives", "an unknown layout", "exit 65; the message has the files in it and the known layouts"
)
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
        (["Cat/1.jpg", "dog/1.jpg", "Dog/2.jpg"], "`Dog` and `dog`.*one spelling.*rename"),
        (["train/cat.1.jpg", "train/Cat.2.jpg", "train/dog.1.jpg"], "`Cat` and `cat`"),
    ],
)
def test_unknown_layout_is_refused(names: list[str], message: str) -> None:
    """The message about a layout without two valid classes has the files or the classes in it."""
    with pytest.raises(DataError, match=message):
        layouts.candidates(_archive(*names))


@pytest.mark.reliability("archives", "two members with one name", "exit 65; the message has the name")
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names",
    [
        ["PetImages/Cat/1.jpg", "PetImages/cat/1.jpg", "PetImages/Dog/1.jpg"],
        ["cat/1.jpg", "cat/1.jpg", "dog/1.jpg"],
        ["cat/1.jpg", "./cat/1.jpg", "dog/1.jpg"],
    ],
)
def test_repeated_name_is_refused(names: list[str]) -> None:
    """Two members with one name are ambiguous."""
    with pytest.raises(DataError, match=r"`cat\.1\.jpg` 2 times"):
        layouts.candidates(_archive(*names))


def test_path_outside_the_archive_is_refused() -> None:
    """The layout of an archive that was opened without `archives` is checked too."""
    with pytest.raises(DataError, match="plain files"):
        layouts.candidates(_archive("cats/1.jpg", "dogs/1.jpg", "../a.jpg"))
