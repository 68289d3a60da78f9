"""Neighbours: the file of rows is read only as it was written."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from transfer.network import neighbours
from transfer.runtime import files
from transfer.runtime.errors import DataError

ROWS = neighbours.normalize(np.random.default_rng(0).random((30, 8), np.float32))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Up to float16; the same rows have the same bytes."""
    sha256 = neighbours.write(tmp_path / "rows.npz", ROWS)
    assert neighbours.write(tmp_path / "again.npz", ROWS) == sha256
    read = neighbours.read(tmp_path / "rows.npz", sha256=sha256, channels=8, hint="Copy it.")
    np.testing.assert_allclose(read, ROWS, atol=1e-3)


def test_the_distance_is_that_of_the_nth_neighbour() -> None:
    """Measured between rows of length one; with fewer rows than neighbours, that of the last."""
    expected = np.sort(np.linalg.norm(ROWS - ROWS[0], axis=1))
    assert neighbours.distance_to(ROWS, neighbours=10)(ROWS[:1]) == pytest.approx([expected[9]], abs=1e-4)
    assert neighbours.distance_to(ROWS, neighbours=99)(ROWS[:1]) == pytest.approx([expected[-1]], abs=1e-4)


def test_a_row_without_activation_has_no_direction() -> None:
    """It stays zero instead of becoming NaN."""
    assert neighbours.normalize(np.zeros((1, 8), np.float32)).tolist() == [[0.0] * 8]


def archive(array: np.ndarray, *, name: str = "rows.npy", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of one array."""
    content, member = io.BytesIO(), io.BytesIO()
    np.save(member, array, allow_pickle=True)
    with zipfile.ZipFile(content, "w", compression) as target:
        target.writestr(name, member.getvalue())
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no archive", "File is not a zip file"),
        (archive(np.array([{}])), "allow_pickle=False"),
        (archive(ROWS.astype(np.float16), compression=zipfile.ZIP_DEFLATED), "another archive"),
        (archive(ROWS.astype(np.float16), name="other.npy"), "another archive"),
        (archive(ROWS), r"float32, \(30, 8\)"),
        (archive(ROWS[:, :7].astype(np.float16)), r"float16, \(30, 7\)"),
        (archive(np.full((2, 8), np.nan, np.float16)), "finite"),
        (archive(np.empty((0, 8), np.float16)), r"float16, \(0, 8\)"),
        (archive(np.float16(0)), r"float16, \(\)"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """Even if the card names it: a model of another source may have been made to harm. Nothing is unpickled."""
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        neighbours.read(tmp_path / "rows.npz", sha256=files.sha256(tmp_path / "rows.npz"), channels=8, hint="Copy it.")


def test_missing_and_changed_files_are_refused(tmp_path: Path) -> None:
    """The message says what to do."""
    with pytest.raises(DataError, match=r"no such file\. Copy it\."):
        neighbours.read(tmp_path / "rows.npz", sha256="ab" * 32, channels=8, hint="Copy it.")
    neighbours.write(tmp_path / "rows.npz", ROWS)
    with pytest.raises(DataError, match=r"begins with abababababab\. Received: .*\. Copy it\."):
        neighbours.read(tmp_path / "rows.npz", sha256="ab" * 32, channels=8, hint="Copy it.")
