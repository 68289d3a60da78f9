import io
import re
import zipfile
from pathlib import PurePosixPath

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
        (["a.txt", "b.mov", "c.mov"], r"`cat/1\.jpg`.*`PetImages/Cat/1\.jpg`.* Received: 2 of \.mov \(`b\.mov`\)"),
        (["test1.zip", "sampleSubmission.csv"], r"`train\.zip`.* Received: 1 of \.zip \(`test1\.zip`\), 1 of \.csv"),
        ([], "no files at all"),
        (["cats/1.jpg", "cats/2.jpg"], "only `cats`"),
        (["train/cat.0.jpg", "train/cat.1.jpg", "test1/1.jpg"], "only `cat`"),
        (["cats/1.jpg", "dogs/1.jpg", "cover.jpg"], "`cover.jpg`"),
        (["train/cats/1.jpg", "train/dogs/1.jpg", "more/cats/2.jpg"], "`more/cats/2.jpg`"),
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


def _arrange(*names: str) -> layouts.Layout:
    """Arrange files; `N` in a name stands for three numbers, and a name that ends with `/` is a folder."""
    names = tuple(name.replace("N", str(number)) for name in names for number in range(3 if "N" in name else 1))
    return layouts.arrange(
        [PurePosixPath(name) for name in names if not name.endswith("/")],
        [PurePosixPath(name) for name in names if name.endswith("/")],
    )


def _classes(layout: layouts.Layout) -> list[str]:
    return sorted({candidate.class_name for candidate in layout.candidates})


NAMED = ("train/cat.N.jpg", "train/dog.N.jpg")


@pytest.mark.reliability(
    "photographs",
    "a file or folder that breaks the layout",
    "exit 65; the message has a file in the wrong place, and a folder named as a split is no class",
)
@pytest.mark.parametrize(
    ("names", "misplaced"),
    [
        ((*NAMED, "train/cat.41 - Copy.jpg", "test1/N.jpg"), "train/cat.41 - Copy.jpg"),
        ((*NAMED, "valid/cat.7.jpg", "valid/dog 8.jpg"), "valid/dog 8.jpg"),
        ((*NAMED, "VALID/N.jpg"), "VALID/0.jpg"),
        ((*NAMED, "extra/cat.9.jpg"), "extra/cat.9.jpg"),
        ((*NAMED, "extra/N.jpg", "extra/1N.jpg", "extra/2N.jpg"), "extra/0.jpg"),
        ((*NAMED, "train/more/cat.9.jpg"), "train/more/cat.9.jpg"),
        ((*NAMED, "cat.9.jpg"), "cat.9.jpg"),
        ((*NAMED, "old/valid/cat.9.jpg"), "old/valid/cat.9.jpg"),
        (("cat/N.jpg", "dog/N.jpg", "dog/more/N.jpg"), "dog/more/0.jpg"),
        (("cat/N.jpg", "dog/N.jpg", "misc/x/1.jpg"), "misc/x/1.jpg"),
        (("cat/N.jpg", "dog/N.jpg", "a/b/c/d/e/N.jpg"), "a/b/c/d/e/0.jpg"),
        (("cat/N.jpg", "dog/N.jpg", "train/cat.9.jpg"), "train/cat.9.jpg"),
        (("train/cat/N.jpg", "train/dog/N.jpg", "cat/9.jpg"), "cat/9.jpg"),
        (("train/cat/N.jpg", "train/dog/N.jpg", "test/unknown/1.jpg"), "test/unknown/1.jpg"),
        (("train/N.jpg", "valid/N.jpg"), "train/0.jpg"),
        (("test/N.jpg", "pass/N.jpg"), "test/0.jpg"),
    ],
)
def test_file_in_the_wrong_place_is_named(names: tuple[str, ...], misplaced: str) -> None:
    """A layout that is broken by one file is not read as another layout; the message has that file."""
    with pytest.raises(DataError, match=f"Received(, among others)?: `{re.escape(misplaced)}`"):
        _arrange(*names)


@pytest.mark.parametrize(
    ("names", "classes", "merged"),
    [
        ((*NAMED, "valid/cat.7.jpg", "valid/dog.0.jpg"), ["cat", "dog"], "`train`, `valid` are merged"),
        (("train/cats/N.jpg", "train/dogs/N.jpg", "validation/cats/N.jpg"), ["cats", "dogs"], "`train`, `validation`"),
        (
            ("c_f/Train/a/N.jpg", "c_f/Train/b/N.jpg", "c_f/Val/a/N.jpg", "c_f/run.py"),
            ["a", "b"],
            "`c_f/Train`, `c_f/V",
        ),
        (("p_5340/PetImages/Cat/N.jpg", "p_5340/PetImages/Dog/N.jpg", "readme.txt"), ["cat", "dog"], ""),
        (("home/me/Pictures/cat/N.jpg", "home/me/Pictures/dog/N.jpg"), ["cat", "dog"], ""),
        (("train/cats/N.jpg", "train/dogs/N.jpg", "test/N.jpg"), ["cats", "dogs"], "left out: 3 unlabelled"),
        (("photos/cat.N.jpg", "photos/dog.N.jpg", "test1/N.jpg"), ["cat", "dog"], "left out: 3 unlabelled"),
        (("test/test.N.jpg", "pass/pass.N.jpg"), ["pass", "test"], ""),
        (("แมว/N.jpg", "สุนัข/N.jpg"), ["สุนัข", "แมว"], ""),
        (("a/N.jpg", "b/N.jpg", "@eaDir/a/N.jpg", "a/@eaDir/1.jpg/M.jpg", "__MACOSX/a/N.jpg"), ["a", "b"], ""),
    ],
)
def test_layout_is_recognised(names: tuple[str, ...], classes: list[str], merged: str) -> None:
    """Folders around a known layout are stepped over, and splits are merged and said so in one line."""
    layout = _arrange(*names)
    assert _classes(layout) == sorted(classes)
    assert layout.describe().startswith(merged)
    assert bool(layout.describe()) == bool(merged)
    assert len({candidate.name for candidate in layout.candidates}) == len(layout.candidates)


@pytest.mark.reliability(
    "photographs", "a class folder that is empty or has no photographs", "exit 65; the message has its name and files"
)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("rabbit/N.mov",), r"`rabbit` with 3 of \.mov \(`rabbit/0\.mov`\)"),
        (("rabbit/",), "`rabbit` with no files at all"),
        (("rabbit/raw/N.cr2",), r"`rabbit` with 3 of \.cr2"),
    ],
)
def test_class_without_photographs_is_named(names: tuple[str, ...], message: str) -> None:
    """A class of which nothing is left does not vanish."""
    with pytest.raises(DataError, match=message):
        _arrange("cat/N.jpg", "dog/N.jpg", *names)
    assert _classes(_arrange("train/a/N.jpg", "train/b/N.jpg", "val/a/N.jpg", "val/b/", "docs/a.txt")) == ["a", "b"]


@pytest.mark.reliability(
    "photographs",
    "files of other endings in class folders",
    "left out, and counted by ending in one line and in metrics.json",
)
def test_other_files_are_counted_by_ending() -> None:
    """Endings of photographs are known in all their spellings; other files in folders of photographs are counted."""
    endings = ("jfif", "JPE", "jfi", "pjpeg", "avif", "tif", "tiff", "heic", "heif")
    layout = _arrange(*(f"cat/{ending}.{ending}" for ending in endings), "dog/N.jpg", "dog/N.mov", "cat/x", "a.txt")
    assert len(layout.candidates) == len(endings) + 3
    assert layout.left_out == {".mov": 3, "no suffix": 1}
    assert layout.describe() == "left out: 3 .mov, 1 no suffix"


@pytest.mark.parametrize("comment", [b"", b"hello", b"left out: [1]", b"left out: {", b'left out: {".a": "x"}'])
def test_comment_of_another_program_is_ignored(comment: bytes) -> None:
    """The counts that `download` keeps in the archive's comment are read; any other comment is not."""
    archive = _archive("a/1.jpg", "b/1.jpg")
    archive.comment = comment
    assert layouts.read(archive).left_out == {}
    archive.comment = layouts.encode_counts({".mov": 3})
    assert layouts.read(archive).left_out == {".mov": 3}


def test_path_outside_the_archive_is_refused() -> None:
    """The layout of an archive that was opened without `archives` is checked too."""
    with pytest.raises(DataError, match="plain files"):
        layouts.candidates(_archive("cats/1.jpg", "dogs/1.jpg", "../a.jpg"))
