from pathlib import Path
from zipfile import ZipFile

import pytest

from transfer.prediction import model_file
from transfer.runtime.errors import DataError


def test_a_file_that_is_no_network_is_named_with_what_it_is(tmp_path: Path) -> None:
    """A missing file, a folder and another file are told apart, each with what to do."""
    for name, message in (("missing", "is missing. Run `dvc repro`"), ("", "a folder"), ("text", "another file")):
        file = tmp_path / name if name else tmp_path
        if name == "text":
            file.write_text("no archive")
        with pytest.raises(DataError, match=message):
            model_file.check(file)


def test_a_network_without_its_card_is_rejected(tmp_path: Path) -> None:
    """The message names the `model.json` that lacks, and where it comes from."""
    with ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(DataError, match=r"must have a model\.json .* Copy it from the folder"):
        model_file.check(tmp_path / "model.keras")
