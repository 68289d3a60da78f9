import re
from pathlib import Path

import pytest

from transfer.runtime import spreadsheets
from transfer.runtime.errors import DataError


@pytest.mark.reliability(
    "tampered",
    "names of photographs or classes that are formulas, such as `=cmd(...)`, in CSV files for spreadsheets",
    "an apostrophe before the formula, which a spreadsheet then shows as text",
)
@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "=\n", "\n=1", "\uff1d1+1", "\uff20a"]
)
def test_formulas_are_shown_as_text_and_can_be_read_back(text: str) -> None:
    """A cell that begins as a formula gets an apostrophe, which `unprotect` removes."""
    protected = spreadsheets.protect(text)
    assert protected == f"'{text}"
    assert spreadsheets.unprotect(protected) == text


@pytest.mark.parametrize(
    "text", ["", "-", "=", "cat.jpg", "'", "'cat'", "a=b", "1-2", "é ü.jpg", "a\nb", "猫/0.jpg", "a\u3000b"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    """Only formulas and control characters are changed."""
    assert spreadsheets.protect(text) == spreadsheets.unprotect(text) == text


@pytest.mark.reliability(
    "tampered", "names with escape sequences in CSV files", "escaped like `\\x1b`: a terminal does not interpret them"
)
def test_control_characters_are_escaped() -> None:
    """Escape sequences and marks that reorder text are visible as codes."""
    assert spreadsheets.protect("a\x1b[2J\x9b1m\x00\u202eb") == r"a\x1b[2J\x9b1m\x00\u202eb"
    assert spreadsheets.protect("\x07=1") == r"\x07=1"
    assert spreadsheets.protect("a\u061cb") == r"a\u061cb"


TABLE = [(2, {"sha256": "ab", "class": "katze, jung", "note": 'sagt "miau"'}), (4, {"sha256": "cd", "class": "ü"})]
FORMS = {
    "as written": 'sha256,class,note\nab,"katze, jung","sagt ""miau"""\n\ncd,ü\n'.encode(),
    "by Excel": b"\xef\xbb\xbf" + 'SHA256;class;note\r\nab;"katze, jung";"sagt ""miau"""\r\n;;\r\ncd;ü;\r\n'.encode(),
    "as Unicode text": 'sha256\tclass\tnote\r\nab\tkatze, jung\t"sagt ""miau"""\r\n\r\ncd\tü\r\n'.encode("utf-16"),
    "all quoted": '"sha256","class","note"\n"ab","katze, jung","sagt ""miau"""\n\n" cd ","ü",""\n'.encode(),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_tables_of_spreadsheet_programs_are_read(tmp_path: Path, content: bytes) -> None:
    """Byte order marks, semicolons, tabs, quotes and any line ends change nothing; empty lines are left out."""
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    rows = spreadsheets.read(file, required=["sha256", "class"], optional=["note"])
    assert rows == [(line, {"note": "", **cells}) for line, cells in TABLE]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty file"),
        (b"sha256\nab\n", "sha256"),
        (b"sha256,class,colour\n", "sha256, class, colour"),
        (b"sha256,class,class\n", "sha256, class, class"),
        (b"sha256,class\n\xe9,cat\n", "a byte that is not, at 13"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, content: bytes, received: str) -> None:
    """A table without its columns, with others, or not in UTF-8 is refused with what was found."""
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"Received: {received}.")):
        spreadsheets.read(file, required=["sha256", "class"], optional=["note"])
