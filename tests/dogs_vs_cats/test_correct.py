from pathlib import Path

import pytest

from dogs_vs_cats import correct
from transfer.images import corrections, manifest
from transfer.images.corrections import Correction
from transfer.runtime.errors import DataError

ONE, TWO, THREE = "01" * 32, "02" * 32, "03" * 32
HEADER = "rank,sha256,path,source,split,class,suggested,probability,decision,note"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which a run has been made, with photographs of cats and dogs."""
    entries = [manifest.Entry(f"{name}.jpg", name, ONE, 8, 8, "train") for name in ("cat", "dog")]
    manifest.write(tmp_path / "artifacts/split/manifest.csv", entries)
    return tmp_path


def marked(project: Path, *rows: tuple[str, str, str, str]) -> Path:
    """Write a marked-up suspects.csv; rows have sha256, split, decision and note."""
    lines = [f"1,{sha256},p.jpg,,{split},cat,dog,0.99,{decision},{note}" for sha256, split, decision, note in rows]
    file = project / "marked.csv"
    file.write_text("\n".join([HEADER, *lines]) + "\n")
    return file


def test_decisions_become_corrections(project: Path) -> None:
    """A class, in any case, and `exclude` are written; rows without a decision are left alone and counted."""
    file = marked(project, (ONE, "train", "Dog", "a dog"), (TWO, "test", "exclude", ""), (THREE, "train", "", ""))
    told = correct.correct(project, file)
    assert corrections.read(project / "corrections.csv") == [
        Correction(ONE, "dog", "a dog"),
        Correction(TWO, corrections.EXCLUDE),
    ]
    assert told.startswith("corrections.csv: 2 added; 2 in all. 1 rows without a decision.\n")
    assert "1 are of test photographs" in told


def test_earlier_corrections_keep_their_order_and_notes(project: Path) -> None:
    """A later decision replaces the class in its place, and a note if it has one; a second time nothing changes."""
    file = project / "corrections.csv"
    earlier = [Correction(THREE, "cat", "sure"), Correction(ONE, "cat", "blurred"), Correction(TWO, "dog")]
    corrections.write(file, earlier)
    decided = marked(project, (ONE, "train", "dog", ""), (TWO, "train", "dog", "seen"))
    told = correct.correct(project, decided)
    assert corrections.read(file) == [
        Correction(THREE, "cat", "sure"),
        Correction(ONE, "dog", "blurred"),
        Correction(TWO, "dog", "seen"),
    ]
    assert "2 changed; 3 in all" in told
    content = file.read_bytes()
    assert "2 as before; 3 in all" in correct.correct(project, decided)
    assert file.read_bytes() == content


def test_unclear_rows_are_all_named_and_nothing_is_written(project: Path) -> None:
    """Words that are no class, notes without a decision, and contradictions are refused with their lines.

    So is a SHA-256 that a spreadsheet program took for a number: corrections.csv stays one that a run accepts.
    """
    rows = [(ONE, "train", "yes", ""), (TWO, "train", "", "a fox?")]
    rows += [(THREE, "train", "cat", ""), (THREE, "train", "dog", "")]
    with pytest.raises(DataError) as refusal:
        correct.correct(project, marked(project, *rows))
    received = "line 3: a note without a decision; line 2: `yes`; line 5: `dog`, and `cat` in line 4."
    assert received in str(refusal.value)
    assert not (project / "corrections.csv").exists()
    with pytest.raises(DataError, match=r"line 2: the sha256 `1\.01E\+62`"):
        correct.correct(project, marked(project, ("1.01E+62", "train", "dog", "")))
    assert not (project / "corrections.csv").exists()
    with pytest.raises(DataError, match="Received: no decision"):
        correct.correct(project, marked(project, (ONE, "train", "", "")))


def test_a_table_saved_by_a_spreadsheet_program_is_accepted(project: Path) -> None:
    """Semicolons, a byte order mark and other line ends change nothing."""
    file = marked(project, (ONE, "train", "dog", "ein Hund"))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b",", b";").replace(b"\n", b"\r\n"))
    correct.correct(project, file)
    assert corrections.read(project / "corrections.csv") == [Correction(ONE, "dog", "ein Hund")]


def test_before_a_run_the_classes_are_those_of_the_table(tmp_path: Path) -> None:
    """In a clone without results, a decision may be a class that the table names, and no other."""
    correct.correct(tmp_path, marked(tmp_path, (ONE, "train", "dog", "")))
    with pytest.raises(DataError, match=r"\(cat, dog\) or `exclude`"):
        correct.correct(tmp_path, marked(tmp_path, (ONE, "train", "fox", "")))
