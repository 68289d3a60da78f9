import fcntl
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.transfer.conftest import Cached
from transfer import heads, training, views
from transfer.errors import BusyError, DataError

HEAD = heads.Params(
    pooling="average", batch_normalization=True, dense=[8], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
)
SETTINGS = {"optimizer": "adam", "learning_rate": 1e-2, "batch_size": 8, "epochs": 6, "patience": 6}


class PowerCut(Exception):
    """Ends a training as `kill -9` does: nothing after it runs."""


def train(
    cached: Any, scratch: Path, *, until: int | None = None, loss_to_beat: float = math.inf, **changes: Any
) -> Any:
    """Train a small head; with `until`, the power fails in the middle of that epoch."""
    folder, entries = cached
    settings = training.Params.model_validate(SETTINGS | changes)
    shown, validation = views.to_train_on(folder, entries, part="pooled", batch_size=8, seed=5)
    if until is not None:
        read = shown._read

        def failing(photograph: Any) -> Any:
            if shown.epoch == until:
                raise PowerCut
            return read(photograph)

        shown._read = failing  # type: ignore[method-assign]
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=2, seed=5)
    training.compile_model(head, settings)
    history = training.fit(
        head, shown, validation, settings=settings, seed=5, scratch=scratch, name="test", loss_to_beat=loss_to_beat
    )
    return head, history


def without_seconds(history: training.History) -> list[dict[str, float]]:
    """A history without what no two runs share."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def test_a_killed_training_ends_as_an_undisturbed_one(cached: Cached, tmp_path: Path) -> None:
    """Killed twice, a training goes on from its last whole epoch to the same weights and history."""
    data = cached()
    undisturbed, expected = train(data, tmp_path / "undisturbed")
    for epoch in (2, 4):
        with pytest.raises(Exception, match="PowerCut"):
            train(data, tmp_path / "killed", until=epoch)
    resumed, history = train(data, tmp_path / "killed")
    assert without_seconds(history) == without_seconds(expected)
    for one, other in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whole_epochs_are_not_trained_again(cached: Cached, tmp_path: Path) -> None:
    """After the last epoch, a rerun trains nothing and has the same result."""
    data = cached()
    first, expected = train(data, tmp_path / "scratch")
    again, history = train(data, tmp_path / "scratch", until=0)
    assert history == expected
    for one, other in zip(again.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_stops_when_it_gets_no_better(cached: Cached, tmp_path: Path) -> None:
    """After `patience` epochs without a lower validation loss training ends, also when it was cut off there."""
    data = cached(noise=3.0)
    _, history = train(data, tmp_path / "scratch", epochs=60, patience=3)
    losses = [epoch["val_loss"] for epoch in history]
    assert len(history) < 60
    assert len(history) - 1 - losses.index(min(losses)) == 3
    assert train(data, tmp_path / "scratch", epochs=60, patience=3, until=len(history))[1] == history


def test_the_best_epoch_is_handed_on(cached: Cached, tmp_path: Path) -> None:
    """The weights are those of the epoch with the lowest validation loss, not the last one's."""
    data = cached(noise=3.0)
    head, history = train(data, tmp_path / "scratch", epochs=25, patience=20, learning_rate=0.03)
    best = training.best_epoch(history)
    assert best is not None
    assert best["epoch"] < len(history)
    _, validation = views.to_train_on(*data, part="pooled", batch_size=8, seed=5)
    assert training.validation_loss(head, validation) == pytest.approx(best["val_loss"], rel=1e-5)


def test_penalties_make_no_epoch_better(cached: Cached, tmp_path: Path) -> None:
    """The losses of the history are without the penalties of L1 and L2, however large these are."""
    folder, entries = cached()
    settings = training.Params.model_validate(SETTINGS | {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-9})
    shown, validation = views.to_train_on(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD.model_copy(update={"l2": 10.0}), feature_map=(2, 2, 8), classes=2, seed=5)
    training.compile_model(head, settings)
    [epoch] = training.fit(head, shown, validation, settings=settings, seed=5, scratch=tmp_path / "s", name="test")
    assert float(sum(head.losses)) > 10
    assert max(epoch["loss"], epoch["val_loss"]) < 2


def test_no_epoch_good_enough_leaves_the_weights(cached: Cached, tmp_path: Path) -> None:
    """If no epoch beats the loss to beat, the network is what it was before, and the summary has no scores."""
    data = cached()
    head, history = train(data, tmp_path / "scratch", loss_to_beat=0.0)
    untrained = heads.build(HEAD, feature_map=(2, 2, 8), classes=2, seed=5)
    for one, other in zip(head.get_weights(), untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert training.best_epoch(history, loss_to_beat=0.0) is None
    assert training.summary(history, loss_to_beat=0.0) == {"epochs": 6}


def test_divergence_fails(cached: Cached, tmp_path: Path) -> None:
    """A loss that is no number any more ends the training with the parameter to change, also when run again."""
    folder, entries = cached()
    for _ in range(2):
        with pytest.raises(DataError, match=r"test\.training\.learning_rate"):
            diverge(folder, entries, tmp_path / "scratch")


def diverge(folder: Path, entries: Any, scratch: Path) -> None:
    """Train with a regularization that no loss survives."""
    settings = training.Params.model_validate(SETTINGS | {"optimizer": "sgd", "learning_rate": 1.0})
    shown, validation = views.to_train_on(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD.model_copy(update={"l2": 1e30}), feature_map=(2, 2, 8), classes=2, seed=5)
    training.compile_model(head, settings)
    training.fit(head, shown, validation, settings=settings, seed=5, scratch=scratch, name="test")


def test_a_row_damaged_late_is_named_with_the_cure(cached: Cached, tmp_path: Path) -> None:
    """A damaged row that is met in the middle of an epoch ends the training with its name, not TensorFlow's words."""
    folder, entries = cached()
    shown, _ = views.to_train_on(folder, entries, part="pooled", batch_size=8, seed=5)
    last = shown._order()[-1]
    for row in folder.glob(f"*/{last.sha256}.npz"):
        row.write_bytes(row.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"{last.sha256}.*extract_features"):
        train((folder, entries), tmp_path / "scratch")


def test_a_damaged_state_is_removed(cached: Cached, tmp_path: Path) -> None:
    """A state that a power cut spoiled is said and removed, and the next run begins anew, to the same result."""
    data = cached()
    _, expected = train(data, tmp_path / "undisturbed")
    with pytest.raises(Exception, match="PowerCut"):
        train(data, tmp_path / "killed", until=3)
    [state] = (tmp_path / "killed").glob("epoch-*/state.weights.h5")
    state.write_bytes(bytes(1000))
    with pytest.raises(DataError, match="run again"):
        train(data, tmp_path / "killed")
    assert without_seconds(train(data, tmp_path / "killed")[1]) == without_seconds(expected)


def test_two_processes_do_not_share_a_training(cached: Cached, tmp_path: Path) -> None:
    """While one process trains, another is turned away instead of mixing its epochs in."""
    (tmp_path / "scratch").mkdir()
    with (tmp_path / "scratch" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="Another process"):
            train(cached(), tmp_path / "scratch")


def test_more_classes_are_learned(cached: Cached, tmp_path: Path) -> None:
    """Three classes train with a softmax."""
    folder, entries = cached(train=36, classes=("cat", "dog", "owl"))
    settings = training.Params.model_validate(SETTINGS | {"epochs": 15})
    shown, validation = views.to_train_on(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=3, seed=5)
    training.compile_model(head, settings)
    history = training.fit(head, shown, validation, settings=settings, seed=5, scratch=tmp_path / "s", name="test")
    assert max(epoch["val_accuracy"] for epoch in history) > 0.8


def test_the_history_is_a_table(cached: Cached, tmp_path: Path) -> None:
    """history.csv has a line an epoch with the columns the plots rely on."""
    _, history = train(cached(), tmp_path / "scratch", epochs=2)
    training.write_history(tmp_path / "history.csv", history)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]


def test_other_inputs_do_not_share_scratch() -> None:
    """A training never goes on from another one's state."""
    folders = {
        training.scratch(*key) for key in (("a", {}, {}), ("b", {}, {}), ("a", {"x": 1}, {}), ("a", {}, {"x": 1}))
    }
    assert len(folders) == 4
    assert training.scratch("a", {}, {}) in folders


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.0), ("epochs", 0), ("optimizer", "adamax")])
def test_impossible_settings_are_refused(name: str, value: object) -> None:
    """Values out of range are refused."""
    with pytest.raises(ValidationError):
        training.Params.model_validate(SETTINGS | {name: value})
