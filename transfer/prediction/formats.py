"""Formats: write predictions as CSV, JSON or a text table, row by row as they are computed."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from transfer.runtime import files, spreadsheets

if TYPE_CHECKING:  # importing TensorFlow takes seconds, and --help does not need it
    from transfer.prediction.model import Prediction


class Format(NamedTuple):
    """The parts of an output: a header, a function that formats a row, a separator between rows, and a footer."""

    header: str
    row: Callable[[str, "Prediction"], str]
    separator: str = ""
    footer: str = ""


def as_csv() -> Format:
    """Return the format with the columns file, class, probability and answer, in which no name is a formula."""
    return Format(
        _csv_row("file", "class", "probability", "answer"),
        lambda name, prediction: _csv_row(
            *map(spreadsheets.protect, (name, prediction.class_name)),
            f"{prediction.probability:.9g}",
            spreadsheets.protect(prediction.answer),
        ),
    )


def as_json() -> Format:
    """Return the format with a list of objects, which also have the probabilities of all classes."""
    return Format("[\n", _json_object, ",\n", "\n]\n")


def as_table(names: Sequence[str], classes: Sequence[str]) -> Format:
    """Return the format with aligned columns for a terminal.

    `tabulate` needs all rows before it writes the first one. Here the widths are known in advance, so that rows appear
    as they are computed.

    Args:
        names: the names of all photographs.
        classes: the names of all classes.
    """
    name_width, class_width = (
        max(len(printable(cell)) for cell in column) for column in (["file", *names], ["class", *classes])
    )

    def row(name: str, class_name: str, probability: str, answer: str) -> str:
        cells = f"{printable(name):{name_width}}  {printable(class_name):{class_width}}  {probability:>11}"
        return f"{cells}  {printable(answer)}\n"

    return Format(
        row("file", "class", "probability", "answer"),
        lambda name, prediction: row(name, prediction.class_name, f"{prediction.probability:.4f}", prediction.answer),
    )


def fields(name: str, prediction: "Prediction") -> dict[str, Any]:
    """Return a prediction as it is written in JSON, by the command and by the page."""
    return {
        "file": name,
        "class": prediction.class_name,
        "probability": prediction.probability,
        "answer": prediction.answer,
        "probabilities": prediction.probabilities,
    }


def text(name: str) -> str:
    r"""Return a file name as text; bytes that are not UTF-8 are escaped as `\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def printable(name: str) -> str:
    """Return a name in which control characters are escaped, so that a terminal does not interpret them."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text(name))


def _csv_row(*cells: str) -> str:
    row = files.csv_text(cells, [], line_end="\r\n")  # so that cells with either character are quoted
    return row.removesuffix("\r\n") + "\n"


def _json_object(name: str, prediction: "Prediction") -> str:
    return json.dumps(fields(name, prediction), ensure_ascii=False)
