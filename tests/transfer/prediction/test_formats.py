import csv
import io
import json
import os

import pytest

from transfer.prediction import formats
from transfer.prediction.formats import Format
from transfer.prediction.model import Prediction

NAMES = ["cats/1.jpg", "a longer name.jpg"]
PREDICTIONS = [
    Prediction("cat", 0.75, {"cat": 0.75, "dog": 0.25}, "not sure"),
    Prediction("dog", 1.0, {"cat": 0.0, "dog": 1.0}, "dog"),
]


def output(form: Format) -> str:
    """The output of a format for two predictions."""
    rows = [form.row(name, prediction) for name, prediction in zip(NAMES, PREDICTIONS, strict=True)]
    return form.header + form.separator.join(rows) + form.footer


def test_csv_has_four_columns() -> None:
    """CSV has a row a photograph, with lines that end in a line feed."""
    text = output(formats.as_csv())
    assert text == "file,class,probability,answer\ncats/1.jpg,cat,0.75,not sure\na longer name.jpg,dog,1,dog\n"


@pytest.mark.parametrize("name", ['a, "b".jpg', "c\nd.jpg", "e\rf.jpg", "g\r\nh.jpg"])
def test_csv_quotes_what_would_break_a_row(name: str) -> None:
    """Commas, quotes and line ends of all systems are recovered by a reader of CSV."""
    row = formats.as_csv().row(name, PREDICTIONS[0])
    assert list(csv.reader(io.StringIO(row, newline=""))) == [[name, "cat", "0.75", "not sure"]]


def test_json_is_a_list_of_objects() -> None:
    """JSON has the probabilities of all classes, too."""
    assert json.loads(output(formats.as_json())) == [
        {
            "file": name,
            "class": prediction.class_name,
            "probability": prediction.probability,
            "answer": prediction.answer,
            "probabilities": prediction.probabilities,
        }
        for name, prediction in zip(NAMES, PREDICTIONS, strict=True)
    ]


def test_a_table_is_aligned_for_the_longest_name() -> None:
    """Columns fit the longest name of all photographs, before their rows are known."""
    assert output(formats.as_table(NAMES, ["cat", "dog"])).splitlines() == [
        "file               class  probability  answer",
        "cats/1.jpg         cat         0.7500  not sure",
        "a longer name.jpg  dog         1.0000  dog",
    ]


def test_bytes_that_are_not_utf8_are_escaped() -> None:
    """A file name with other bytes than UTF-8 can be written as text."""
    assert formats.text(os.fsdecode(b"h\xe9.jpg")) == r"h\xe9.jpg"
    assert formats.text("é.jpg") == "é.jpg"


def test_control_characters_are_escaped() -> None:
    """A terminal shows control characters of a name instead of interpreting them."""
    assert formats.printable("g\x1b[2J\n.jpg") == r"g\x1b[2J\n.jpg"
    assert formats.printable("é ü.jpg") == "é ü.jpg"
