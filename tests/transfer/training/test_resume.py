from pathlib import Path

import pytest

from tests import disks
from tests.transfer.conftest import Cached
from tests.transfer.training.conftest import (
    PLATEAU,
    PowerCut,
    assert_same_weights,
    params,
    train,
    untrained_head,
    without_seconds,
)
from transfer.runtime.disk import size_on_disk
from transfer.runtime.errors import DataError, DiskError, LockedError
from transfer.training import fit, resume

KILLED = pytest.mark.reliability(
    "killed", "a killed training run", "the next run goes on after the last complete epoch"
)


@KILLED
def test_a_run_killed_twice_ends_like_an_undisturbed_run(cached: Cached, tmp_path: Path) -> None:
    """A killed run goes on after its last complete epoch and has the same weights and history at the end."""
    features = cached()
    undisturbed, expected = train(features, tmp_path / "undisturbed")
    for epoch in (2, 4):
        with pytest.raises(Exception, match=PowerCut.__name__):
            train(features, tmp_path / "killed", until=epoch)
    resumed, history = train(features, tmp_path / "killed")
    assert without_seconds(history) == without_seconds(expected)
    assert_same_weights(resumed, undisturbed)


@KILLED
@pytest.mark.parametrize("callback", ["reduce_lr_on_plateau", "learning_rate_schedule"])
def test_a_killed_run_goes_on_with_its_learning_rate(cached: Cached, tmp_path: Path, callback: str) -> None:
    """If the learning rate changes during training, a killed run still ends like an undisturbed run."""
    values = {
        "reduce_lr_on_plateau": PLATEAU | {"monitor": "loss", "min_delta": 9.0},
        "learning_rate_schedule": "cosine",
    }
    changes = {callback: values[callback], "early_stopping": None}
    features = cached(noise=3.0)
    undisturbed, expected = train(features, tmp_path / "undisturbed", **changes)
    rates = [epoch["learning_rate"] for epoch in expected]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[-1] < 0.6 * rates[0]
    with pytest.raises(Exception, match=PowerCut.__name__):
        train(features, tmp_path / "killed", until=4, **changes)
    resumed, history = train(features, tmp_path / "killed", **changes)
    assert without_seconds(history) == without_seconds(expected)
    assert_same_weights(resumed, undisturbed)


def test_a_finished_run_is_not_trained_again(cached: Cached, tmp_path: Path) -> None:
    """After the last epoch, a rerun trains no epoch and has the same result."""
    features = cached()
    first, expected = train(features, tmp_path / "scratch")
    second, history = train(features, tmp_path / "scratch", until=0)
    assert history == expected
    assert_same_weights(second, first)


@pytest.mark.reliability(
    "tampered",
    "a damaged state of an interrupted training run",
    "65; it is removed, and the next run starts anew",
)
def test_a_damaged_state_is_removed(cached: Cached, tmp_path: Path) -> None:
    """A state that a power cut damaged is reported and removed; the next run starts anew, with the same result."""
    features = cached()
    _, expected = train(features, tmp_path / "undisturbed")
    with pytest.raises(Exception, match=PowerCut.__name__):
        train(features, tmp_path / "killed", until=3)
    [state] = (tmp_path / "killed").glob("epoch-*/state.npz")
    state.write_bytes(bytes(1000))
    with pytest.raises(DataError, match="run again"):
        train(features, tmp_path / "killed")
    assert without_seconds(train(features, tmp_path / "killed")[1]) == without_seconds(expected)


@pytest.mark.reliability(
    "disk",
    "full in the middle of a training run",
    "exit 74; the next run goes on after the last complete epoch",
)
def test_a_full_disk_costs_no_complete_epoch(cached: Cached, tmp_path: Path) -> None:
    """An epoch that could not be saved is repeated once there is space; the result is that of a large disk."""
    features = cached()
    undisturbed, expected = train(features, tmp_path / "undisturbed")
    written = [path for path in (tmp_path / "undisturbed").rglob("*") if path.is_file()]
    epoch = size_on_disk(path.stat().st_size for path in written if path.parent.name.startswith("epoch-"))
    size = size_on_disk(path.stat().st_size for path in written) + epoch // 2
    with disks.small(tmp_path / "disk", f"size={size}") as disk:
        scratch = disk.path / "scratch"
        with pytest.raises(DiskError, match=rf"The disk of `{scratch}` must have .* free"):
            train(features, scratch)
        assert [path.name for path in scratch.glob("*epoch-*")] == ["epoch-0001"]
        (scratch / "best.npz").write_bytes(b"")  # as a disk that fills up while it is written leaves it
        (disk.path / "other").write_bytes(bytes(disks.free(disk)))
        with pytest.raises(OSError, match="No space left"):
            train(features, scratch)
        assert [path.name for path in scratch.glob("*epoch-*")] == ["epoch-0001"]
        disk.mount("remount,size=1m")
        trained, history = train(features, scratch)
    assert without_seconds(history) == without_seconds(expected)
    assert_same_weights(trained, undisturbed)


@pytest.mark.reliability(
    "two at once", "two processes in the same training run", "the second ends with 75 and names the folder"
)
def test_two_processes_do_not_train_in_one_folder(cached: Cached, tmp_path: Path) -> None:
    """While one process trains, another one fails at once instead of mixing its epochs in."""
    with resume.exclusive(tmp_path, "test"), pytest.raises(LockedError, match=rf"Another process.* {tmp_path}\. Wait"):
        train(cached(), tmp_path)


def test_runs_with_other_inputs_do_not_share_a_folder() -> None:
    """A run never goes on from the state of a run with another stage, other parameters or other inputs."""
    keys = (("a", {}, {}), ("b", {}, {}), ("a", {"x": 1}, {}), ("a", {}, {"x": 1}))
    assert len({resume.scratch_folder(*key) for key in keys}) == len(keys)
    assert resume.scratch_folder("a", {}, {}) == resume.scratch_folder("a", {}, {})


@pytest.mark.reliability(
    "killed",
    "a change of code while a training run is interrupted",
    "it goes on if only comments or docstrings changed, otherwise it starts anew",
)
def test_a_state_survives_a_comment_but_not_a_change_of_code(cached: Cached, tmp_path: Path) -> None:
    """A half-trained state is kept when a comment changes, and is not used when the code does."""
    features, module = cached(), tmp_path / "package" / "stage.py"
    module.parent.mkdir()
    (module.parent / "__init__.py").touch()
    module.write_text("RATE = 1\n")
    folder = resume.scratch_folder("stage", {}, {}, entry=module)
    with pytest.raises(Exception, match=PowerCut.__name__):
        train(features, tmp_path / folder, until=3)
    module.write_text('"""A docstring."""\n\nRATE = 1  # a comment\n')
    assert resume.scratch_folder("stage", {}, {}, entry=module) == folder
    head = untrained_head()
    fit.compile_model(head, params(), batches=3)
    assert len(resume.restore(head, tmp_path / folder, "stage")) == 3
    module.write_text("RATE = 2\n")
    other = resume.scratch_folder("stage", {}, {}, entry=module)
    assert resume.restore(head, tmp_path / other, "stage") == []


def test_the_code_of_a_run_is_that_of_fit_by_default() -> None:
    """Without an entry module the code is that of `fit` and all that it imports."""
    assert resume.scratch_folder("a", {}, {}) == resume.scratch_folder("a", {}, {}, entry=Path(fit.__file__))
