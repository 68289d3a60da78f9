from pathlib import Path

import pytest

from transfer.images import manifest
from transfer.images.manifest import Rejected
from transfer.runtime.errors import DataError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Rejections come back as they were, whatever users' files are called."""
    rejected = [
        Rejected("train/dog.74.jpg", "near_duplicate", "of train/dog.180.jpg, 9 of 256 bits differ"),
        Rejected('cat/a, "b": c\n.jpg', "unreadable", "not one of JPEG, PNG: <b>"),
        Rejected("cat/1.jpg", "unreadable", ""),
    ]
    manifest.write_rejected(tmp_path / "rejected.csv", rejected)
    assert manifest.read_rejected(tmp_path / "rejected.csv") == rejected


def test_none_is_a_heading_alone(tmp_path: Path) -> None:
    """Where nothing was rejected there is a table without a row."""
    manifest.write_rejected(tmp_path / "rejected.csv", [])
    assert (tmp_path / "rejected.csv").read_text() == "name,reason\n"
    assert manifest.read_rejected(tmp_path / "rejected.csv") == []


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "name,reason\ncat/1.jpg\n", b"name,reason\n\xff,b\n"])
def test_a_damaged_table_is_named(tmp_path: Path, content: str | bytes) -> None:
    """A table that lacks a column or is no text is refused with its name."""
    path = tmp_path / "rejected.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"rejected\.csv must be a table"):
        manifest.read_rejected(path)
