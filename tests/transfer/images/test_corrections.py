import re
from pathlib import Path

import pytest

from transfer.images import corrections
from transfer.images.corrections import Correction
from transfer.runtime.errors import DataError

FIRST, SECOND = "ab" * 32, "cd" * 32


def test_corrections_can_be_read_back(tmp_path: Path) -> None:
    """Order, notes and names survive; a formula in a note is none in the file; a missing file has no corrections."""
    file = tmp_path / "corrections.csv"
    assert corrections.read(file) == []
    written = [Correction(SECOND, "dog", "=1+1, he said"), Correction(FIRST, corrections.EXCLUDE)]
    corrections.write(file, written)
    assert corrections.read(file) == written
    assert "'=1+1" in file.read_text()


def test_a_hash_in_capitals_is_the_same(tmp_path: Path) -> None:
    """Hexadecimal digits may be in capitals, and a column for notes may be missing."""
    file = tmp_path / "corrections.csv"
    file.write_text(f"sha256;class\n{FIRST.upper()};dog\n")
    assert corrections.read(file) == [Correction(FIRST, "dog")]


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Invalid hashes, missing classes and photographs with two lines are all in one message, with their lines."""
    file = tmp_path / "corrections.csv"
    file.write_text(f"sha256,class,note\n{FIRST},dog,\nabc,dog,\n{SECOND},,hm\n{FIRST},cat,\n")
    with pytest.raises(DataError) as refusal:
        corrections.read(file)
    received = (
        f"line 2: {FIRST}, which 2 lines have; line 3: the sha256 `abc`; line 4: no class; "
        f"line 5: {FIRST}, which 2 lines have."
    )
    assert received in str(refusal.value)
    assert re.search(r"Mend or remove these lines\.$", str(refusal.value))
