import json
from pathlib import Path

from tests.transfer.training.conftest import history_of, untrained_head
from transfer.network import saving
from transfer.runtime import files
from transfer.training import results, resume

EPOCHS = [{**epoch, "learning_rate": 0.001, "seconds": 2.5} for epoch in history_of(0.6, 0.4)]


def test_a_run_leaves_its_files_and_no_state(tmp_path: Path) -> None:
    """Network, model.json, history.csv, metrics.json and checkpoints are written; all state of the stage is removed."""
    scratch, other = tmp_path / "stage" / "key", tmp_path / "stage" / "other key"
    saving.save(untrained_head(), resume.checkpoints_folder(scratch) / "epoch-0002.keras")
    other.mkdir()
    file = tmp_path / "results/head.keras"
    results.write_run(file, untrained_head(), EPOCHS, metrics={"epochs": 2}, card={"classes": ["a"]}, scratch=scratch)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "checkpoints",
        "head.keras",
        "history.csv",
        "metrics.json",
        "model.json",
    ]
    assert json.loads((file.parent / "metrics.json").read_text()) == {"epochs": 2}
    assert json.loads((file.parent / "model.json").read_text()) == {"classes": ["a"], "sha256": files.sha256(file)}
    assert not scratch.parent.exists()


def test_checkpoints_are_listed_with_their_sha256(tmp_path: Path) -> None:
    """checkpoints.csv has a row for each checkpoint, sorted by name; without checkpoints it has only its heading."""
    results.write_checkpoints(tmp_path / "none", tmp_path / "scratch")
    assert (tmp_path / "none/checkpoints.csv").read_text() == "file,sha256\n"
    for name in ("epoch-0004.keras", "epoch-0002.keras"):
        saving.save(untrained_head(), resume.checkpoints_folder(tmp_path / "scratch") / name)
    results.write_checkpoints(tmp_path / "two", tmp_path / "scratch")
    digest = files.sha256(tmp_path / "two/epoch-0002.keras")
    assert (tmp_path / "two/checkpoints.csv").read_text() == (
        f"file,sha256\nepoch-0002.keras,{digest}\nepoch-0004.keras,{digest}\n"
    )
