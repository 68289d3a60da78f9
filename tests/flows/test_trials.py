import json
from functools import partial
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows import experiments, reproduction, trials
from flows.reproduction import Outcome
from tests.flows.conftest import dvc, git, write_task


@pytest.mark.parametrize(("named", "cache"), [(None, ".cache"), ("a cache", "a cache"), ("/a/cache", "/a/cache")])
def test_a_point_uses_the_feature_cache_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, cache: str
) -> None:
    """A cache with a path relative to the project is the same for stages that run in the sweep's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    if named:
        monkeypatch.setenv("DOGS_VS_CATS_CACHE", named)
    used: list[str] = []

    def fail(_stage: str, *, variables: dict[str, str], **_: object) -> Outcome:
        used.append(variables["DOGS_VS_CATS_CACHE"])
        return Outcome("Failed", "", exit_code=1)

    monkeypatch.setattr(reproduction, "reproduce", fail)
    with pytest.raises(trials.StoppedError):
        trials._scores("train_head", "")
    assert used == [str(tmp_path / cache)]


def test_links_in_the_inbox_are_followed(real_project: Path) -> None:
    """Photographs are in the sweep's folder, too, whether or not they are symbolic links."""
    (real_project / "inbox/dogs").mkdir(parents=True)
    (real_project / "inbox/dogs/1.jpg").write_bytes(b"no link")
    (real_project / "inbox/dogs/2.jpg").symlink_to("../../2.jpg")
    (real_project / "2.jpg").write_bytes(b"linked file")
    trials.prepare()
    inbox = trials.WORKSPACE / "inbox"
    found = {str(path.relative_to(inbox)): path.read_bytes() for path in inbox.rglob("*.jpg") if not path.is_symlink()}
    assert found == {"dogs/1.jpg": b"no link", "dogs/2.jpg": b"linked file"}


def test_fine_tuning_without_improvement_has_the_scores_of_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If fine-tuning selects the head's network, the point has the head's scores and 0 as best epoch."""
    monkeypatch.chdir(tmp_path)
    head = {"epochs": 4, "best_epoch": 3, "loss": 0.2, "accuracy": 0.9, "val_loss": 0.1, "val_accuracy": 0.96}
    for stage, metrics in {"train_head": head, "fine_tune": {"head_val_loss": 0.1, "epochs": 2}}.items():
        (tmp_path / "artifacts" / stage).mkdir(parents=True)
        (tmp_path / "artifacts" / stage / "metrics.json").write_text(json.dumps(metrics))
    read = partial(Path.read_text, encoding="utf-8")
    assert trials.scores_of("fine_tune", read) == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 0}
    assert trials.scores_of("train_head", read) == {"val_loss": 0.1, "val_accuracy": 0.96, "best_epoch": 3}


@pytest.mark.usefixtures("real_project")
def test_a_sweep_s_folder_has_the_remotes_of_the_project() -> None:
    """A remote with a path relative to the project is the same place for DVC in the sweep's folder."""
    dvc("remote", "add", "--default", "store", "../a store")
    trials.prepare()
    with Repo(".") as repo, Repo(str(trials.WORKSPACE)) as other:
        assert other.config["remote"]["store"]["url"] == repo.config["remote"]["store"]["url"]
        assert other.config["core"]["remote"] == "store"


@pytest.mark.usefixtures("project")
def test_scores_are_read_from_an_experiment_of_the_same_parameters_and_code() -> None:
    """An experiment counts for its own parameters, if its code was that of the commit it starts from."""
    scores = {"val_loss": 0.1, "val_accuracy": 0.9, "best_epoch": 2}
    metrics = Path("artifacts/train_head/metrics.json")
    metrics.write_text(json.dumps({**scores, "epochs": 3}))
    files, params = [Path("params.yaml"), metrics], Path("params.yaml").read_text()
    saved = experiments.save("a", files)
    assert trials.saved_scores(saved.commit, "train_head", params) == scores
    assert trials.saved_scores(saved.commit, "train_head", f"{params}more: 1\n") is None
    git("checkout", "--", str(metrics))
    assert trials.saved_scores(experiments.save("b", files).commit, "train_head", params) is None
    metrics.write_text(json.dumps(scores))
    write_task("train_head", "changed = True")
    assert trials.saved_scores(experiments.save("c", files).commit, "train_head", params) is None
