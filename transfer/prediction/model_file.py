"""Model files: check a model's files before TensorFlow is imported, which takes seconds."""

import zipfile
from pathlib import Path

from transfer.network.card import FILE_NAME, Card, verified_card
from transfer.runtime.errors import DataError


def check(file: Path) -> Card:
    """Check that a file may be a network, and return the card in its folder.

    Raises:
        DataError: the file is missing or no archive, or its `model.json` is missing, damaged or another network's.
        OSError: a file cannot be read.
    """
    if not file.exists():
        raise DataError(f"{file} is missing. Run `dvc repro` to make it, or `dvc pull` if a remote has it.")
    if not file.is_file() or not zipfile.is_zipfile(file):
        raise DataError(
            f"{file} must be a network as `fine_tune` saves it, a `.keras` archive. Received: {_kind(file)}. "
            "Name such a file with `--model`."
        )
    try:
        return verified_card(file, hint=f"Use a network and a {FILE_NAME} that were saved together.")
    except FileNotFoundError:
        card_file = file.with_name(FILE_NAME)
        raise DataError(
            f"{file} must have a {FILE_NAME} with classes and resizing in its folder. Received: no {card_file}. "
            "Copy it from the folder in which the network was saved."
        ) from None


def _kind(file: Path) -> str:
    if file.is_dir():
        return "a folder"
    return "another file" if file.is_file() else "a named pipe or device"
