"""Spreadsheets: CSV files for and from spreadsheet programs, which must not interpret their text."""

import codecs
import csv
import io
import re
from collections.abc import Collection
from pathlib import Path

from transfer.runtime.errors import DataError

Row = tuple[int, dict[str, str]]  # the number of its line, and its cells by column

# A cell of several characters that begins with one of these is a formula, which can run commands and send other cells
# elsewhere. The standard protection is an apostrophe before it, which a spreadsheet hides.
# Spreadsheets in East Asian languages read the wide forms in the same way.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def protect(text: str) -> str:
    r"""Return a cell's text with an apostrophe before a formula, and with control characters escaped like `\x1b`.

    Tabs and line ends stay, as CSV quotes them. Numbers do not need this, and a negative one must not get it.
    """
    printable = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
    return f"'{printable}" if _FORMULA.match(printable) else printable


def unprotect(text: str) -> str:
    """Return the text that `protect` was given, except that escaped control characters stay escaped."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read(path: Path, *, required: Collection[str], optional: Collection[str] | None = None) -> list[Row]:
    """Read a table of text as spreadsheet programs save it.

    It may begin with a byte order mark, be UTF-16, have semicolons or tabs between cells, quoted cells and any line
    ends. Empty lines are left out, and so are spaces around cells.

    Args:
        path: the file.
        required: columns that it must have, in any order and in upper or lower case.
        optional: columns that it may have besides; None: any.

    Raises:
        DataError: it is no text, or a column is missing, unknown or there twice.
    """
    text = _text(path)
    delimiter = max(",;\t", key=(text.splitlines() or [""])[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip().casefold() for name in next(reader, [])]
        _check_columns(path, columns, required, optional)
        rows = [(reader.line_num, [unprotect(cell.strip()) for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{path} must be a table. Received: {error} in line {reader.line_num}.") from None
    return [
        (line, dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))) for line, cells in rows if any(cells)
    ]


def _text(path: Path) -> str:
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be text in UTF-8. Received: a byte that is not, at {error.start:,}. "
            "Save it as CSV in UTF-8, then try again."
        ) from None


def _check_columns(
    path: Path, columns: Collection[str], required: Collection[str], optional: Collection[str] | None
) -> None:
    allowed = {*columns} if optional is None else {*required, *optional}
    if not {*required} <= {*columns} <= allowed or len({*columns}) < len(columns):
        also = f", and may have {', '.join(optional)}" if optional else ""
        raise DataError(
            f"{path} must have the columns {', '.join(required)}{also}, each once. "
            f"Received: {', '.join(columns) or 'an empty file'}."
        )
