import fcntl
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests import disks
from tests.conftest import training_params
from tests.transfer.conftest import Cached
from transfer.features import dataset, store
from transfer.network import heads, saving
from transfer.runtime.disk import size_on_disk
from transfer.runtime.errors import DataError, DiskError, LockedError
from transfer.training import fit

HEAD = heads.Params(
    pooling="average", batch_normalization=True, dense=[8], activation="relu", dropout=0.5, l1=0.0, l2=1e-4
)


def params(**changes: Any) -> fit.Params:
    """Six epochs of Adam, with some params changed."""
    quick: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 6, "patience": 6}
    return fit.Params.model_validate(training_params("train_head", **quick | changes))


PLATEAU: dict[str, Any] = {
    "monitor": "val_loss",
    "factor": 0.5,
    "patience": 2,
    "min_delta": 0.0,
    "cooldown": 0,
    "min_lr": 0.0,
}
STOPPING: dict[str, Any] = {
    "monitor": "val_loss",
    "mode": "auto",
    "min_delta": 0.0,
    "patience": 6,
    "baseline": None,
    "restore_best_weights": True,
}
CHECKPOINT: dict[str, Any] = {"monitor": "val_loss", "save_best_only": False, "save_freq": 2}


class PowerCut(Exception):
    """Ends a training as `kill -9` does: nothing after it runs."""


def train(
    cached: Any, scratch: Path, *, until: int | None = None, loss_to_beat: float = math.inf, **changes: Any
) -> Any:
    """Train a small head; with `until`, the power fails in the middle of that epoch."""
    folder, entries = cached
    settings = params(**changes)
    shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    if until is not None:
        read = shown._read

        def failing(photograph: Any) -> Any:
            if shown.epoch == until:
                raise PowerCut
            return read(photograph)

        shown._read = failing  # type: ignore[method-assign]
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=2, seed=5)
    fit.compile_model(head, settings, batches=len(shown))
    history = fit.fit(
        head, shown, validation, settings=settings, seed=5, scratch=scratch, name="test", loss_to_beat=loss_to_beat
    )
    return head, history


def without_seconds(history: fit.History) -> list[dict[str, float]]:
    """A history without what no two runs share."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


@pytest.mark.reliability("killed", "training goes on after it was killed", "no epoch that was whole is trained again")
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
    best = fit.best_epoch(history, params())
    assert best is not None
    assert best["epoch"] < len(history)
    _, validation = dataset.train_and_validation(*data, part="pooled", batch_size=8, seed=5)
    assert fit.validation_loss(head, validation) == pytest.approx(best["val_loss"], rel=1e-5)


def test_penalties_make_no_epoch_better(cached: Cached, tmp_path: Path) -> None:
    """The losses of the history are without the penalties of L1 and L2, however large these are."""
    folder, entries = cached()
    settings = params(epochs=1, optimizer="sgd", learning_rate=1e-9)
    shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD.model_copy(update={"l2": 10.0}), feature_map=(2, 2, 8), classes=2, seed=5)
    fit.compile_model(head, settings, batches=len(shown))
    [epoch] = fit.fit(head, shown, validation, settings=settings, seed=5, scratch=tmp_path / "s", name="test")
    assert float(sum(head.losses)) > 10
    assert max(epoch["loss"], epoch["val_loss"]) < 2


def test_no_epoch_good_enough_leaves_the_weights(cached: Cached, tmp_path: Path) -> None:
    """If no epoch beats the loss to beat, the network is what it was before, and the summary has no scores."""
    data = cached()
    head, history = train(data, tmp_path / "scratch", loss_to_beat=0.0)
    untrained = heads.build(HEAD, feature_map=(2, 2, 8), classes=2, seed=5)
    for one, other in zip(head.get_weights(), untrained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert fit.best_epoch(history, params(), loss_to_beat=0.0) is None
    assert fit.summary(history, params(), loss_to_beat=0.0) == {"epochs": 6}


@pytest.mark.reliability(
    "training", "the loss becomes NaN", "65 and the parameter to lower; nothing half made is written"
)
def test_divergence_fails(cached: Cached, tmp_path: Path) -> None:
    """A loss that is no number any more ends the training with the parameter to change, also when run again."""
    folder, entries = cached()
    for _ in range(2):
        with pytest.raises(DataError, match=r"test\.training\.learning_rate"):
            diverge(folder, entries, tmp_path / "scratch")


def diverge(folder: Path, entries: Any, scratch: Path) -> None:
    """Train with a regularization that no loss survives."""
    settings = params(optimizer="sgd", learning_rate=1.0)
    shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD.model_copy(update={"l2": 1e30}), feature_map=(2, 2, 8), classes=2, seed=5)
    fit.compile_model(head, settings, batches=len(shown))
    fit.fit(head, shown, validation, settings=settings, seed=5, scratch=scratch, name="test")


@pytest.mark.reliability("tampered", "a row of features cut short or changed", "training ends with 65 and the cure")
def test_a_row_damaged_late_is_named_with_the_cure(cached: Cached, tmp_path: Path) -> None:
    """A damaged row that is met in the middle of an epoch ends the training with its name, not TensorFlow's words."""
    folder, entries = cached()
    shown, _ = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    last = shown._order()[-1]
    for row in folder.glob(f"*/{last.sha256}.npz"):
        row.write_bytes(row.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"{last.sha256}.*extract_features"):
        train((folder, entries), tmp_path / "scratch")


@pytest.mark.reliability(
    "tampered", "a damaged state of a training that was cut off", "65; it is removed, and the next run begins anew"
)
def test_a_damaged_state_is_removed(cached: Cached, tmp_path: Path) -> None:
    """A state that a power cut spoiled is said and removed, and the next run begins anew, to the same result."""
    data = cached()
    _, expected = train(data, tmp_path / "undisturbed")
    with pytest.raises(Exception, match="PowerCut"):
        train(data, tmp_path / "killed", until=3)
    [state] = (tmp_path / "killed").glob("epoch-*/state.npz")
    state.write_bytes(bytes(1000))
    with pytest.raises(DataError, match="run again"):
        train(data, tmp_path / "killed")
    assert without_seconds(train(data, tmp_path / "killed")[1]) == without_seconds(expected)


@pytest.mark.reliability("disk", "full in the middle of a training", "exit 74; it goes on from the last whole epoch")
def test_a_disk_that_gets_full_costs_no_epoch(cached: Cached, tmp_path: Path) -> None:
    """The epoch that could not be kept is repeated once there is room, and the result is that of a large disk."""
    data = cached()
    undisturbed, expected = train(data, tmp_path / "undisturbed")
    kept = [path for path in (tmp_path / "undisturbed").rglob("*") if path.is_file()]
    an_epoch = size_on_disk(path.stat().st_size for path in kept if path.parent.name.startswith("epoch-"))
    and_half = size_on_disk(path.stat().st_size for path in kept) + an_epoch // 2
    with disks.small(tmp_path / "disk", f"size={and_half}") as disk:
        scratch = disk.path / "scratch"
        with pytest.raises(DiskError, match=rf"The disk of `{scratch}` must have .* free"):
            train(data, scratch)
        assert [path.name for path in scratch.glob("*epoch-*")] == ["epoch-0001"]
        (scratch / "best.npz").write_bytes(b"")  # as a disk that is full at this moment leaves it
        (disk.path / "other").write_bytes(bytes(disks.free(disk)))
        with pytest.raises(OSError, match="No space left"):
            train(data, scratch)
        assert [path.name for path in scratch.glob("*epoch-*")] == ["epoch-0001"]
        disk.mount("remount,size=1m")
        trained, history = train(data, scratch)
    assert without_seconds(history) == without_seconds(expected)
    for one, other in zip(trained.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_training_needs_is_what_it_takes(cached: Cached, tmp_path: Path) -> None:
    """Room is asked for the state twice, the best weights three times, checkpoints, and the network as it is saved."""
    checkpoint = {"monitor": "val_loss", "save_best_only": False, "save_freq": 2}
    settings = params(model_checkpoint=checkpoint)
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=2, seed=5)
    fit.compile_model(head, settings, batches=3)
    numbers, trained = head.count_params(), sum(math.prod(each.shape) for each in head.trainable_variables)
    weights, state = 4 * numbers, 4 * (numbers + 2 * trained + 1) + 8  # Adam: two moments, the rate and the steps
    needs = fit.needs(head, head, settings=settings, scratch=tmp_path / "scratch", results=tmp_path / "results")
    assert needs == {
        tmp_path / "scratch": 3 * weights + 2 * state + 5 * state,
        tmp_path / "results": 5 * state,
    }
    train(cached(), tmp_path / "scratch", model_checkpoint=checkpoint)
    settled = fit.needs(head, head, settings=settings, scratch=tmp_path / "scratch", results=tmp_path / "results")
    assert settled[tmp_path / "scratch"] < needs[tmp_path / "scratch"]


@pytest.mark.reliability(
    "two at once", "two processes at the same training", "the second ends with 75, naming the folder"
)
def test_two_processes_do_not_share_a_training(cached: Cached, tmp_path: Path) -> None:
    """While one process trains, another is turned away instead of mixing its epochs in."""
    (tmp_path / "scratch").mkdir()
    with (tmp_path / "scratch" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="Another process"):
            train(cached(), tmp_path / "scratch")


@pytest.mark.reliability("training", "a single photograph a class", "it trains; the splits need more, and say so")
@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "owl")])
def test_a_single_photograph_a_class_is_trained_on(cached: Cached, tmp_path: Path, classes: tuple[str, ...]) -> None:
    """As little as there can be is one batch, and no special case."""
    folder, entries = cached(train=len(classes), validation=len(classes), views=0, classes=classes)
    settings = params(epochs=2)
    shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=len(classes), seed=5)
    fit.compile_model(head, settings, batches=len(shown))
    history = fit.fit(head, shown, validation, settings=settings, seed=5, scratch=tmp_path / "s", name="test")
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())


@pytest.mark.reliability("training", "pictures of one colour", "where params let them through, it trains to a guess")
def test_rows_that_are_all_the_same_are_trained_on(cached: Cached, tmp_path: Path) -> None:
    """Where nothing tells the classes apart, normalization divides by no zero and the loss is that of a guess."""
    folder, entries = cached()
    same = store.to_row(np.ones((4, 4, 8), np.float32), np.ones((2, 2, 8), np.float32))
    for view, recipe in enumerate(store.read_recipes(folder)):
        for path in folder.glob(f"{view}/*.npz"):
            store.write_row(path, same, recipe=store.recipe_digest(recipe), photo=path.stem)
    _, history = train((folder, entries), tmp_path / "scratch")
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())
    assert history[-1]["val_loss"] == pytest.approx(math.log(2), abs=0.2)


@pytest.mark.reliability("training", "a validation split of one class", "it trains; the stage split refuses it before")
def test_a_validation_split_of_one_class_is_no_obstacle(cached: Cached, tmp_path: Path) -> None:
    """Without a photograph of the other class the validation loss is still a number."""
    folder, entries = cached()
    one = [entry for entry in entries if (entry.split, entry.class_name) != ("validation", "dog")]
    _, history = train((folder, one), tmp_path / "scratch", epochs=2)
    assert all(math.isfinite(value) for epoch in history for value in epoch.values())


def test_more_classes_are_learned(cached: Cached, tmp_path: Path) -> None:
    """Three classes train with a softmax."""
    folder, entries = cached(train=36, classes=("cat", "dog", "owl"))
    settings = params(epochs=15)
    shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
    head = heads.build(HEAD, feature_map=(2, 2, 8), classes=3, seed=5)
    fit.compile_model(head, settings, batches=len(shown))
    history = fit.fit(head, shown, validation, settings=settings, seed=5, scratch=tmp_path / "s", name="test")
    assert max(epoch["val_accuracy"] for epoch in history) > 0.8


def test_the_history_is_a_table(cached: Cached, tmp_path: Path) -> None:
    """history.csv has a line an epoch with the columns the plots rely on."""
    _, history = train(cached(), tmp_path / "scratch", epochs=2)
    fit.write_history(tmp_path / "history.csv", history)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]


def test_other_inputs_do_not_share_scratch() -> None:
    """A training never goes on from another one's state."""
    folders = {fit.scratch(*key) for key in (("a", {}, {}), ("b", {}, {}), ("a", {"x": 1}, {}), ("a", {}, {"x": 1}))}
    assert len(folders) == 4
    assert fit.scratch("a", {}, {}) in folders


@pytest.mark.parametrize(("name", "value"), [("learning_rate", 0.0), ("epochs", 0), ("optimizer", "adamax")])
def test_impossible_settings_are_refused(name: str, value: object) -> None:
    """Values out of range are refused."""
    with pytest.raises(ValidationError):
        params(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer_settings": {"momentum": 0.9}}, r"`optimizer: adam` has the settings `beta_1`.* `momentum`"),
        ({"optimizer": "sgd", "optimizer_settings": {"nesterov": True}}, "no `momentum`"),
        ({"learning_rate_schedule": "cosine", "reduce_lr_on_plateau": PLATEAU}, "Received: 'cosine'"),
        ({"reduce_lr_on_plateau": PLATEAU | {"patience": 6}}, "training ends before"),
        ({"early_stopping": STOPPING | {"mode": "max"}}, "the worst epoch"),
        ({"model_checkpoint": CHECKPOINT | {"save_freq": 7}}, "nothing is kept"),
    ],
)
def test_params_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    """What would have no effect, or the contrary one, is said before a training begins."""
    with pytest.raises(ValidationError, match=message):
        params(**changes)


@pytest.mark.reliability("killed", "training goes on after it was killed", "no epoch that was whole is trained again")
@pytest.mark.parametrize("callback", ["reduce_lr_on_plateau", "learning_rate_schedule"])
def test_a_killed_training_goes_on_with_its_learning_rate(cached: Cached, tmp_path: Path, callback: str) -> None:
    """Where the learning rate changes on the way, a training that was killed still ends as an undisturbed one."""
    changes = {
        "reduce_lr_on_plateau": PLATEAU | {"monitor": "loss", "min_delta": 9.0},
        "learning_rate_schedule": "cosine",
    }
    changed = {callback: changes[callback], "early_stopping": None}
    data = cached(noise=3.0)
    undisturbed, expected = train(data, tmp_path / "undisturbed", **changed)
    rates = [epoch["learning_rate"] for epoch in expected]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[-1] < 0.6 * rates[0]
    with pytest.raises(Exception, match="PowerCut"):
        train(data, tmp_path / "killed", until=4, **changed)
    resumed, history = train(data, tmp_path / "killed", **changed)
    assert without_seconds(history) == without_seconds(expected)
    for one, other in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_early_stopping_the_last_epoch_is_handed_on(cached: Cached, tmp_path: Path) -> None:
    """All epochs are trained and the last one's weights stay, as over-fitted as they are."""
    data = cached(noise=3.0)
    settings: dict[str, Any] = {"epochs": 20, "learning_rate": 0.03, "early_stopping": None}
    head, history = train(data, tmp_path / "scratch", **settings)
    assert len(history) == 20
    assert history[-1]["val_loss"] > min(epoch["val_loss"] for epoch in history)
    _, validation = dataset.train_and_validation(*data, part="pooled", batch_size=8, seed=5)
    assert fit.validation_loss(head, validation) == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    assert fit.summary(history, params(**settings))["best_epoch"] == 20


def test_the_best_epoch_is_best_in_what_is_monitored(cached: Cached, tmp_path: Path) -> None:
    """With `monitor: val_accuracy` the first epoch of highest accuracy counts, whatever its loss."""
    stopping = STOPPING | {"monitor": "val_accuracy", "patience": 20}
    _, history = train(cached(noise=3.0), tmp_path / "scratch", epochs=12, early_stopping=stopping)
    best = fit.best_epoch(history, params(early_stopping=stopping))
    assert best == max(history, key=lambda epoch: epoch["val_accuracy"])
    assert best != min(history, key=lambda epoch: epoch["val_loss"])


@pytest.mark.parametrize(
    ("best_only", "names"), [(False, ["epoch-0002", "epoch-0004", "epoch-0006"]), (True, ["best"])]
)
def test_networks_are_kept_on_the_way(cached: Cached, tmp_path: Path, *, best_only: bool, names: list[str]) -> None:
    """Every second epoch's network is handed on with a table, or the best of those, also after a kill."""
    data = cached()
    kept = {"model_checkpoint": CHECKPOINT | {"save_best_only": best_only, "save_freq": 2}}
    with pytest.raises(Exception, match="PowerCut"):
        train(data, tmp_path / "scratch", until=3, **kept)
    head, history = train(data, tmp_path / "scratch", **kept)
    fit.write_checkpoints(tmp_path / "checkpoints", tmp_path / "scratch")
    assert sorted(file.stem for file in (tmp_path / "checkpoints").glob("*.keras")) == names
    lines = (tmp_path / "checkpoints/checkpoints.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["file", *(f"{name}.keras" for name in names)]
    assert min(history, key=lambda epoch: epoch["val_loss"])["epoch"] == 6
    last = saving.load(tmp_path / f"checkpoints/{names[-1]}.keras")
    for one, other in zip(last.get_weights(), head.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat", "dog", "owl")])
def test_smoothed_labels_make_a_network_less_sure(cached: Cached, tmp_path: Path, classes: tuple[str, ...]) -> None:
    """With label smoothing the losses of a history stay log losses, and the network is less sure of the same."""
    folder, entries = cached(train=36, classes=classes, noise=0.1)
    sureness = []
    for smoothing in (0.0, 0.3):
        settings = params(epochs=25, label_smoothing=smoothing, patience=25)
        shown, validation = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5)
        head = heads.build(HEAD, feature_map=(2, 2, 8), classes=len(classes), seed=5)
        fit.compile_model(head, settings, batches=len(shown))
        scratch = tmp_path / f"{smoothing}"
        history = fit.fit(head, shown, validation, settings=settings, seed=5, scratch=scratch, name="test")
        predicted = head.predict(validation, verbose=0)
        sureness.append(np.abs(predicted - 0.5).mean() if len(classes) == 2 else predicted.max(axis=1).mean())
        best = fit.best_epoch(history, settings)
        assert best is not None
        assert fit.validation_loss(head, validation) == pytest.approx(best["val_loss"], rel=1e-4)
    assert sureness[1] < sureness[0] - 0.03


def test_rows_of_a_head_are_read_once(cached: Cached) -> None:
    """A pooled row stays in memory after its first reading, as long as there is room for it."""
    folder, entries = cached(views=0)
    pool = partial(heads.pool, pooling="max")
    shown, _ = dataset.train_and_validation(folder, entries, part="pooled", batch_size=8, seed=5, pool=pool)
    shown._free_bytes = 16 * 8 * 4  # bytes, of sixteen rows
    first = [shown[number] for number in range(len(shown))]
    for row in folder.glob("0/*.npz"):
        row.unlink()
    for (rows, _), (kept, _) in zip(first[:2], (shown[0], shown[1]), strict=True):
        np.testing.assert_array_equal(rows, kept)
    with pytest.raises(DataError, match="extract_features"):
        shown[2]
