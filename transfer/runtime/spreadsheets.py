"""Spreadsheets: text in CSV files that a spreadsheet or a terminal must not interpret."""

import re

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
