from pathlib import Path

import pytest

from transfer import manifest
from transfer.errors import DataError
from transfer.manifest import Entry

CAT = Entry("photos/cat/cat.1.jpg", "cat", "ab" * 32, 499, 375)
DOG = Entry("photos/dog/dog.1.jpg", "dog", "cd" * 32, 320, 240)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Names with commas, quotes, line breaks and any letters survive."""
    odd = Entry('photos/cat/a, "b"\r\n猫.jpg', "cat, tabby", "ef" * 32, 1, 2)
    manifest.write(tmp_path / "manifest.csv", [CAT, DOG, odd])
    assert manifest.read(tmp_path / "manifest.csv") == [CAT, DOG, odd]


def test_a_manifest_is_a_table_people_and_programs_can_read(tmp_path: Path) -> None:
    """The first line names the columns; without splits there is no column for them."""
    manifest.write(tmp_path / "manifest.csv", [CAT])
    expected = f"path,class,sha256,width,height\nphotos/cat/cat.1.jpg,cat,{'ab' * 32},499,375\n"
    assert (tmp_path / "manifest.csv").read_bytes() == expected.encode()


def test_splits_are_kept(tmp_path: Path) -> None:
    """A manifest with splits has a column for them."""
    entries = [CAT._replace(split="train"), DOG._replace(split="test")]
    manifest.write(tmp_path / "manifest.csv", entries)
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == "path,class,sha256,width,height,split"
    assert manifest.read(tmp_path / "manifest.csv") == entries


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """A table edited elsewhere, its columns in another order and more of them, is read all the same."""
    (tmp_path / "manifest.csv").write_text("note,height,width,sha256,class,path\nfine,2,1,aa,cat,photos/cat/x.jpg\n")
    assert manifest.read(tmp_path / "manifest.csv") == [Entry("photos/cat/x.jpg", "cat", "aa", 1, 2)]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"path,class,sha256,width\na,cat,ab,1\n", "no column 'height'"),
        (b"path,class,sha256,width,height\na,cat,ab,1,tall\n", "tall"),
        (b"path,class,sha256,width,height\na,cat\n", "NoneType"),
        (b"path,class,sha256,width,height\n\xff\xfe,cat,ab,1,1\n", "utf-8"),
        (b"path,class,sha256,width,height\n" + b"a" * 200_000 + b",cat,ab,1,1\n", "field larger"),
    ],
    ids=["column missing", "no number", "short row", "not UTF-8", "endless field"],
)
def test_a_damaged_manifest_is_refused_with_the_reason(tmp_path: Path, content: bytes, received: str) -> None:
    """The message names the file, what it must hold and what was found."""
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="must have the columns path, class, sha256, width, height") as caught:
        manifest.read(path)
    assert str(path) in str(caught.value)
    assert received in str(caught.value)


def test_classes_are_numbered_by_name() -> None:
    """The order of rows does not change which class the network calls the first."""
    assert manifest.classes([DOG, CAT, DOG]) == ["cat", "dog"]
