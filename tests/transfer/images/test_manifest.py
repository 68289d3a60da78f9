from pathlib import Path
from typing import Any

import pytest

from transfer.images import manifest
from transfer.images.manifest import Entry, Rejected
from transfer.runtime.errors import DataError

CAT = Entry("photos/cat/cat.1.jpg", "cat", "ab" * 32, 499, 375)
DOG = Entry("photos/dog/dog.1.jpg", "dog", "cd" * 32, 320, 240)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names with commas, quotes, line breaks and non-Latin letters are preserved."""
    odd = Entry('photos/cat/a, "b"\r\n猫.jpg', "cat, tabby", "ef" * 32, 1, 2)
    manifest.write(tmp_path / "manifest.csv", [CAT, DOG, odd])
    assert manifest.read(tmp_path / "manifest.csv") == [CAT, DOG, odd]


def test_a_manifest_is_a_csv_file_with_a_header(tmp_path: Path) -> None:
    """The first line names the columns; without splits there is no column for them."""
    manifest.write(tmp_path / "manifest.csv", [CAT])
    expected = f"path,class,sha256,width,height\nphotos/cat/cat.1.jpg,cat,{'ab' * 32},499,375\n"
    assert (tmp_path / "manifest.csv").read_bytes() == expected.encode()


def test_splits_are_written_and_read(tmp_path: Path) -> None:
    """A manifest with splits has a column for them."""
    entries = [CAT._replace(split="train"), DOG._replace(split="test")]
    manifest.write(tmp_path / "manifest.csv", entries)
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == "path,class,sha256,width,height,split"
    assert manifest.read(tmp_path / "manifest.csv") == entries


def test_the_users_files_are_written_and_read(tmp_path: Path) -> None:
    """A manifest of the user's photographs has a column for their files, in which no cell is a formula."""
    entries = [CAT._replace(source="inbox/猫, 1.jpg"), DOG._replace(source="=inbox/x.jpg")]
    manifest.write(tmp_path / "manifest.csv", entries)
    header, _, last = (tmp_path / "manifest.csv").read_text().splitlines()
    assert header == "path,class,sha256,width,height,source"
    assert last.endswith(",'=inbox/x.jpg")
    assert manifest.read(tmp_path / "manifest.csv") == entries


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """A manifest with its columns in another order, and with additional ones, is read."""
    row = f"fine,2,1,{'ab' * 32},cat,photos/cat/x.jpg"
    (tmp_path / "manifest.csv").write_text(f"note,height,width,sha256,class,path\n{row}\n")
    assert manifest.read(tmp_path / "manifest.csv") == [Entry("photos/cat/x.jpg", "cat", "ab" * 32, 1, 2)]


@pytest.mark.reliability("tampered", "a damaged manifest.csv", "65 with the damage and the command to run")
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
def test_a_damaged_manifest_is_rejected_with_the_reason(tmp_path: Path, content: bytes, received: str) -> None:
    """The message has the path, the columns that the file must have, and what is wrong."""
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="must have the columns path, class, sha256, width, height") as caught:
        manifest.read(path)
    assert str(path) in str(caught.value)
    assert received in str(caught.value)


@pytest.mark.reliability(
    "tampered", "a manifest.csv with paths out of its folder", "65: no file there is read, written or removed"
)
@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/etc/passwd"},
        {"path": "photos/../../../etc/passwd"},
        {"path": ""},
        {"path": "photos/cat/\0.jpg"},
        {"sha256": "../../../somewhere/else"},
        {"sha256": "AB" * 32},
        {"sha256": "ab" * 31},
        {"class_name": ""},
        {"width": 0},
        {"split": "all"},
    ],
    ids=str,
)
def test_a_row_with_an_invalid_value_is_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Files are named after paths and SHA-256s, so invalid ones are an error; the message has the value."""
    wrong = DOG._replace(**{"split": "test", **changes})
    manifest.write(tmp_path / "manifest.csv", [CAT._replace(split="train"), wrong])
    with pytest.raises(DataError, match=r"as its stage wrote it\. Received: the (path|sha256|row of) '") as caught:
        manifest.read(tmp_path / "manifest.csv")
    assert str(caught.value).isprintable()


def test_classes_are_sorted_by_name() -> None:
    """The order of rows does not change the number of a class."""
    assert manifest.classes([DOG, CAT, DOG]) == ["cat", "dog"]


def test_rejected_photographs_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Names, reasons and details are preserved, whatever characters are in the names."""
    rejected = [
        Rejected("train/dog.74.jpg", "near_duplicate", "of train/dog.180.jpg, 9 of 256 bits differ"),
        Rejected('cat/a, "b": c\n.jpg', "unreadable", "not one of JPEG, PNG: <b>"),
        Rejected("cat/1.jpg", "unreadable", ""),
    ]
    manifest.write_rejected(tmp_path / "rejected.csv", rejected)
    assert manifest.read_rejected(tmp_path / "rejected.csv") == rejected


def test_a_rejected_photograph_s_name_is_no_formula(tmp_path: Path) -> None:
    """A name that a spreadsheet would take for a formula has an apostrophe in the file, and is read back without."""
    rejected = [Rejected("=1+1/cat.jpg", "unreadable", "empty file")]
    manifest.write_rejected(tmp_path / "rejected.csv", rejected)
    assert (tmp_path / "rejected.csv").read_text().splitlines()[1] == "'=1+1/cat.jpg,unreadable: empty file"
    assert manifest.read_rejected(tmp_path / "rejected.csv") == rejected


def test_without_rejected_photographs_the_file_has_a_header(tmp_path: Path) -> None:
    """If nothing was rejected, the file has the column names and no row."""
    manifest.write_rejected(tmp_path / "rejected.csv", [])
    assert (tmp_path / "rejected.csv").read_text() == "name,reason\n"
    assert manifest.read_rejected(tmp_path / "rejected.csv") == []


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "name,reason\ncat/1.jpg\n", b"name,reason\n\xff,b\n"])
def test_a_damaged_list_of_rejected_photographs_is_an_error(tmp_path: Path, content: str | bytes) -> None:
    """If a column is missing or the file is not text, the message has its path."""
    path = tmp_path / "rejected.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"rejected\.csv must be a table"):
        manifest.read_rejected(path)
