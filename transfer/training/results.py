"""Results: the files that a training run leaves."""

import shutil
from pathlib import Path
from typing import Any

from transfer.network import saving
from transfer.network.backend import keras
from transfer.runtime import files
from transfer.training import resume
from transfer.training.history import History, write_history


def write_run(
    file: Path,
    network: keras.Model,
    history: History,
    *,
    metrics: dict[str, float],
    card: dict[str, Any],
    scratch: Path,
) -> None:
    """Write all files of a training run, then remove its scratch folder.

    Args:
        file: for the network; the other files go into the same folder, see `write` and `write_checkpoints`.
        network: the network to save.
        history: the run's epochs.
        metrics: content of `metrics.json`.
        card: content of `model.json`, see `card.describe`.
        scratch: the run's scratch folder.
    """
    write(file, network, history, metrics=metrics, card=card)
    write_checkpoints(file.with_name("checkpoints"), scratch)
    resume.discard(scratch)


def write(
    file: Path, network: keras.Model, history: History, *, metrics: dict[str, float], card: dict[str, Any]
) -> None:
    """Write a network with its `model.json` and, in the same folder, `history.csv` and `metrics.json`."""
    write_history(file.with_name("history.csv"), history)
    files.write_json(file.with_name("metrics.json"), metrics)
    saving.write(file, network, card)


def write_checkpoints(folder: Path, scratch: Path) -> None:
    """Copy a run's checkpoints to a folder with a table of them, `checkpoints.csv`, atomically."""
    checkpoints = sorted(resume.checkpoints_folder(scratch).glob("*.keras"))
    table = files.csv_text(["file", "sha256"], [[file.name, files.sha256(file)] for file in checkpoints])
    with files.atomic_folder(folder) as temporary:
        for checkpoint in checkpoints:
            shutil.copyfile(checkpoint, temporary / checkpoint.name)
        (temporary / "checkpoints.csv").write_text(table, encoding="utf-8", newline="")
