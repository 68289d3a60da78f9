from pathlib import Path

import pytest

from transfer.runtime.errors import DataError
from transfer.training import history

HEADING = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds\n"


def test_history_is_read_as_numbers(tmp_path: Path) -> None:
    """A history is a row of numbers an epoch."""
    path = tmp_path / "history.csv"
    path.write_text(HEADING + "1,0.5,0.7,0.6,0.65,0.001,2.5\n")
    [epoch] = history.read_history(path)
    assert (epoch["epoch"], epoch["val_loss"]) == (1.0, 0.6)


@pytest.mark.parametrize("rows", ["", "1,0.5,0.7,much,0.65,0.001,2.5\n", "1,0.5\n", "1,1,1,1,1,1,1,1\n"])
def test_damaged_history_is_refused(tmp_path: Path, rows: str) -> None:
    """A history that is empty, cut short or no numbers is refused with its name."""
    path = tmp_path / "history.csv"
    path.write_text(HEADING + rows)
    with pytest.raises(DataError, match=r"history\.csv must"):
        history.read_history(path)


def test_epochs_count_on_through_the_phases() -> None:
    """Fine-tuning's first epoch follows the head's last, and each phase's kept epoch is marked once a split."""
    rows = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
    epochs = history.concatenate([history.Phase("train_head", rows, 2), history.Phase("fine_tune", rows[:2], None)])
    validation = [epoch for epoch in epochs if epoch.split == "validation"]
    assert [epoch.epoch for epoch in validation] == [1, 2, 3, 4, 5]
    assert [epoch.phase_epoch for epoch in validation] == [1, 2, 3, 1, 2]
    assert [epoch.epoch for epoch in validation if epoch.begins] == [1, 4]
    assert [epoch.epoch for epoch in validation if epoch.best] == [2]
    assert {(epoch.split, epoch.loss, epoch.accuracy) for epoch in epochs} == {
        ("train", 0.5, 0.7),
        ("validation", 0.6, 0.65),
    }


def test_epochs_that_over_fit_are_marked() -> None:
    """From the epoch it is told of to the end of its phase, and in no other phase."""
    rows = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
    phases = [history.Phase("train_head", rows, 1, over_fits_from=2), history.Phase("fine_tune", rows, 3)]
    marked = [epoch.epoch for epoch in history.concatenate(phases) if epoch.over_fits and epoch.split == "validation"]
    assert marked == [2, 3]
