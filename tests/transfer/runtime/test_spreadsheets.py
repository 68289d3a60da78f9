import pytest

from transfer.runtime import spreadsheets


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
