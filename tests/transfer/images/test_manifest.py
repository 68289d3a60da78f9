from pathlib import Path
from typing import Any

import pytest

from transfer.images import manifest
from transfer.images.manifest import Entry
from transfer.runtime.errors import DataError

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
    row = f"fine,2,1,{'ab' * 32},cat,photos/cat/x.jpg"
    (tmp_path / "manifest.csv").write_text(f"note,height,width,sha256,class,path\n{row}\n")
    assert manifest.read(tmp_path / "manifest.csv") == [Entry("photos/cat/x.jpg", "cat", "ab" * 32, 1, 2)]


@pytest.mark.reliability("tampered", "a damaged manifest.csv", "65, what is wrong with it, and the cure")
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


@pytest.mark.reliability(
    "tampered", "a manifest.csv with paths that lead out of its folder", "65: nothing is read, written or removed there"
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
def test_a_row_that_no_stage_writes_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Files are named after paths and sha256s, so these can lead nowhere else; the message names what was found."""
    wrong = DOG._replace(**{"split": "test", **changes})
    manifest.write(tmp_path / "manifest.csv", [CAT._replace(split="train"), wrong])
    with pytest.raises(DataError, match=r"as its stage wrote it\. Received: the (path|sha256|row of) '") as caught:
        manifest.read(tmp_path / "manifest.csv")
    assert str(caught.value).isprintable()


def test_classes_are_numbered_by_name() -> None:
    """The order of rows does not change which class the network calls the first."""
    assert manifest.classes([DOG, CAT, DOG]) == ["cat", "dog"]
