from pathlib import Path

import pytest

from tests.transfer.training.conftest import STOPPING, history_of, params
from transfer.runtime.errors import DataError
from transfer.training import history

HEADING = "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds\n"


def test_a_history_is_written_and_read_as_a_table(tmp_path: Path) -> None:
    """history.csv has a row for each epoch and the columns that the plots rely on."""
    epochs = [{**epoch, "learning_rate": 0.001, "seconds": 2.5} for epoch in history_of(0.6, 0.4)]
    history.write_history(tmp_path / "history.csv", epochs)
    content = (tmp_path / "history.csv").read_text()
    assert content == HEADING + "1,0.5,0.5,0.6,0.5,0.001,2.5\n2,0.5,0.5,0.4,0.5,0.001,2.5\n"
    assert history.read_history(tmp_path / "history.csv") == epochs


@pytest.mark.parametrize("rows", ["", "1,0.5,0.7,much,0.65,0.001,2.5\n", "1,0.5\n", "1,1,1,1,1,1,1,1\n"])
def test_a_damaged_history_is_rejected(tmp_path: Path, rows: str) -> None:
    """A history that is empty, truncated or not numeric is rejected with its name."""
    path = tmp_path / "history.csv"
    path.write_text(HEADING + rows)
    with pytest.raises(DataError, match=r"history\.csv must"):
        history.read_history(path)


@pytest.mark.parametrize(
    ("losses", "min_delta", "epoch"),
    [((0.5, 0.4, 0.4, 0.45), 0.0, 2), ((0.5, 0.45, 0.38, 0.35), 0.1, 3), ((0.5,), 0.1, 1)],
)
def test_the_best_epoch_is_the_one_that_keras_restores(losses: tuple[float, ...], min_delta: float, epoch: int) -> None:
    """The first of equal epochs is the best, and an epoch that is better by less than min_delta is not."""
    best = history.best_by_monitor(history_of(*losses), "val_loss", min_delta=min_delta)
    assert best is not None
    assert best["epoch"] == epoch
    assert history.best_by_monitor([], "val_loss") is None


def test_the_best_epoch_must_beat_the_given_loss() -> None:
    """Epochs with a validation loss that is not below `loss_to_beat` do not count, whatever the monitor."""
    epochs = history_of(0.5, 0.4, 0.3)
    epochs[0]["val_accuracy"] = 0.9
    settings = params(early_stopping=STOPPING | {"monitor": "val_accuracy"})
    assert history.best_epoch(epochs, settings) is epochs[0]
    assert history.best_epoch(epochs, settings, loss_to_beat=0.45) is epochs[1]
    assert history.best_epoch(epochs, settings, loss_to_beat=0.3) is None


def test_a_summary_has_the_scores_of_the_best_epoch() -> None:
    """Without a best epoch it has the number of epochs alone."""
    summary = history.summary(history_of(0.5, 0.4, 0.45), params())
    scores = {"loss": 0.5, "accuracy": 0.5, "val_loss": 0.4, "val_accuracy": 0.5}
    assert summary == {"epochs": 3, "best_epoch": 2, **scores}
    assert history.summary(history_of(0.5, 0.4, 0.45), params(), loss_to_beat=0.1) == {"epochs": 3}


def test_epochs_are_counted_through_the_phases() -> None:
    """Fine-tuning's first epoch follows the head's last, and each phase's best epoch is marked once a split."""
    rows = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
    points = history.concatenate([history.Phase("train_head", rows, 2), history.Phase("fine_tune", rows[:2], None)])
    validation = [point for point in points if point.split == "validation"]
    assert [point.epoch for point in validation] == [1, 2, 3, 4, 5]
    assert [point.phase_epoch for point in validation] == [1, 2, 3, 1, 2]
    assert [point.epoch for point in validation if point.begins] == [1, 4]
    assert [point.epoch for point in validation if point.best] == [2]
    assert {(point.split, point.loss, point.accuracy) for point in points} == {
        ("train", 0.5, 0.7),
        ("validation", 0.6, 0.65),
    }


def test_epochs_that_over_fit_are_marked() -> None:
    """Epochs are marked from `over_fits_from` to the end of the phase, and in no other phase."""
    rows = [{"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.65}] * 3
    phases = [history.Phase("train_head", rows, 1, over_fits_from=2), history.Phase("fine_tune", rows, 3)]
    points = [point for point in history.concatenate(phases) if point.split == "validation"]
    assert [point.epoch for point in points if point.over_fits] == [2, 3]
