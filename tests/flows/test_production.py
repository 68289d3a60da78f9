import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows import experiments, git, graph, models, processes, production, records, registry, remote
from tests import networks
from tests.conftest import ROOT, Reproduced, copy_workspace
from tests.flows.test_experiments import everything
from transfer.evaluation import judgement
from transfer.images import manifest
from transfer.prediction import versions
from transfer.runtime.errors import DataError, ParamsError

MANIFEST = Path("artifacts/split/manifest.csv")
SETTINGS = {"minimum_accuracy": 0.9, "accuracy_margin": 0.01, "confidence": 0.9, "resamples": 1000, "seed": 0}
RUN = "0b7f3c52-9d7e-4a66-9a0e-5d1e6f1f1a2b"

Train = Callable[[str, float], experiments.Saved]


@pytest.fixture
def workspace(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which all stages have run, the current folder, with a bare Git repository and a store as remotes."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "a project"
    copy_workspace(reproduced.workspace, folder)
    monkeypatch.chdir(folder)
    for name in (".gitignore", ".dvc/.gitignore"):  # without them, Git compresses weights for ten seconds
        shutil.copy(ROOT / name, name)
    config = Path(".dvc/config").read_text().replace("    no_scm = true\n", "")
    Path(".dvc/config").write_text(
        config.replace("[core]", "[core]\n    remote = store")
        + f"['remote \"store\"']\n    url = {tmp_path / 'store'}\n"
    )
    params = YAML(typ="safe").load(Path("params.yaml"))
    Path("params.yaml").unlink()
    Path("params.yaml").write_text(json.dumps(params | {"promote": SETTINGS}))
    git.run("init", "--quiet", "--initial-branch=main")
    git.run("init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "bare"))
    git.run("remote", "add", "origin", str(tmp_path / "bare"))
    git.run("add", ".")
    git.run("commit", "--quiet", "--message=Start", environment=git.identity())
    git.run("push", "--quiet", "origin", "main")
    return folder


@pytest.fixture
def train(workspace: Path) -> Train:
    """Return a function that saves a run whose network has a chosen quality; the workspace is as before afterwards."""

    def save(name: str, logit: float) -> experiments.Saved:
        assert Path.cwd() == workspace
        test = [entry for entry in manifest.read(MANIFEST) if entry.split == "test"]
        photographs = Path("artifacts/subsample")
        networks.write(Path("artifacts/fine_tune"), photographs, test, logit=logit, trained_on=MANIFEST)
        with Repo(".") as repo:
            repo.commit("fine_tune", force=True)
        return experiments.save(name, graph.uncached_outputs(), run=RUN)

    return save


def log(_: str) -> None:
    """Ignore a message."""


def state() -> dict[str, object]:
    """Return the state of the workspace and of Git, but for tags and for the verdicts."""
    found = everything()
    found["branches"] = git.run("for-each-ref", "refs/heads", "refs/stash")
    return {name: value for name, value in found.items() if not name.startswith((".cache", "artifacts/promote"))}


def judged_here(candidate: Path, champion: Path | None) -> dict[str, Any]:
    """Judge in this process, which has imported TensorFlow; tests/flows/test_promote.py starts another one."""
    options = ["--champion", str(champion)] if champion else []
    judgement.main([str(candidate), *options, "--verdict", ".cache/verdict.json"])
    verdict: dict[str, Any] = json.loads(Path(".cache/verdict.json").read_text())
    return verdict


def test_the_life_of_a_model(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promoted, replaced by a better one, refused, rolled back; DVC alone gets the one in production elsewhere."""
    monkeypatch.setattr(production, "judge", judged_here)
    first, better, worse = train("first", 1.5), train("better", 3.0), train("worse", 1.0)
    Path("untracked").write_text("untracked")
    before = state()
    results = [production.promote(saved.name, log) for saved in (first, better, worse)]
    assert [result.name for result in results] == ["Promoted", "Promoted", "Refused"]
    assert "Promoted as v2.0.0: better. Better than the champion: accuracy 1.0000 against" in results[1].message
    assert "This test split has judged 3 times." in results[2].message
    assert production.promote("better", log).name == "Unchanged"
    assert production.roll_back(None, log) == "Rolled back from v2.0.0 to v1.0.0."
    assert state() == before
    rows = records.read()
    assert [(row.verdict, row.version, row.champion) for row in rows] == [
        ("promoted", "v1.0.0", ""),
        ("promoted", "v2.0.0", "v1.0.0"),
        ("refused", "", "v2.0.0"),
    ]
    records.FILE.unlink()  # as in a process that was killed before it wrote the row, or in another clone
    assert records.add(records.of(registry.read().assignments)) == rows[:2]
    got = tmp_path / "got.keras"
    command = ["artifacts", "get", str(tmp_path / "bare"), "classifier", "--stage", "prod", "--out", str(got)]
    subprocess.run(
        [sys.executable, "-m", "dvc", *command],
        cwd=tmp_path,
        env=processes.environment(),
        check=True,
        capture_output=True,
    )
    assert got.read_bytes() == (models.fetch(first.commit) / versions.NETWORK).read_bytes()


def test_the_second_of_two_decides_again(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run judged against nothing is judged again against the one that was promoted meanwhile."""
    mine, theirs = train("mine", 1.5), train("theirs", 3.0)
    judged: list[Path | None] = []

    def judge(_: Path, champion: Path | None) -> dict[str, Any]:
        judged.append(champion)
        if champion is None:
            registry.promote(registry.read(), theirs.commit, reason="Quicker.")
        return {**dict.fromkeys(production.SCORES), "promoted": champion is None, "low": None, "high": None,
                "test_split": "a", "reason": "."}  # fmt: skip

    monkeypatch.setattr(production, "judge", judge)
    result = production.promote(mine.name, log)
    assert result.name == "Refused"
    assert judged == [None, models.fetch(theirs.commit)]
    champion = registry.read().production
    assert champion is not None
    assert champion.commit == theirs.commit


@pytest.mark.reliability(
    "network", "DVC's remote fails during a promotion", "no tag is created anywhere, and the next promotion is complete"
)
def test_no_tag_without_its_data(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the data cannot be pushed, no tag is created, here or in the remote, and no verdict is recorded."""
    saved = train("first", 3.0)
    monkeypatch.setattr(production, "judge", lambda *_: {**dict.fromkeys(production.SCORES), "promoted": True,
                        "low": None, "high": None, "test_split": "a", "reason": "."})  # fmt: skip
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(Exception, match="store"), production.errors_of_tools():
        production.promote(saved.name, log)
    assert git.run("tag") == git.run("ls-remote", "--tags", "origin") == ""
    assert records.read() == []
    (tmp_path / "store").unlink()
    result = production.promote(saved.name, log)
    assert result.name == "Promoted"
    shutil.rmtree(".dvc/cache")
    shutil.rmtree(".cache/models")
    assert (models.fetch(saved.commit) / versions.NETWORK).stat().st_size > 0


def test_versions_from_before_there_was_a_remote_are_shared(train: Train, tmp_path: Path) -> None:
    """The first promotion with a remote also pushes the versions before, with their data; one without data stays."""
    older, first, better = train("older", 1.0), train("first", 1.5), train("better", 3.0)
    git.run("remote", "remove", "origin")
    config = Path(".dvc/config").read_text()
    Path(".dvc/config").write_text(config.replace("    remote = store\n", ""))
    for saved in (older, first):
        registry.promote(registry.read(), saved.commit, reason="Without a remote.")
    git.run("remote", "add", "origin", str(tmp_path / "bare"))
    Path(".dvc/config").write_text(config)
    with Repo(".", rev=older.commit) as repo:
        lost = repo.dvcfs.info("artifacts/fine_tune/model.keras")["dvc_info"]["md5"]
    Path(".dvc/cache/files/md5", lost[:2], lost[2:]).unlink()
    said: list[str] = []
    assert production.promote(better.name, said.append).name == "Promoted"
    names = [line.rpartition("/")[2] for line in git.run("ls-remote", "--tags", "--refs", "origin").splitlines()]
    assert names == ["classifier#prod#2", "classifier#prod#3", "classifier@v2.0.0", "classifier@v3.0.0"]
    assert [line for line in said if f"The version of commit {older.commit[:10]} stays in this clone" in line]
    shutil.rmtree(".dvc/cache")
    shutil.rmtree(".cache/models")
    assert (models.fetch(first.commit) / versions.NETWORK).stat().st_size > 0


def test_what_a_promotion_needs_is_said(workspace: Path) -> None:
    """Without a saved run or a remote of DVC, the message says what to do."""
    assert workspace == Path.cwd()
    with pytest.raises(DataError, match=r"a saved run\. Received: none\. Run `dogs-vs-cats run --flow`"):
        production.promote(None, log)
    with pytest.raises(DataError, match=r"of this name\. Received: nothing"):
        production.promote("nothing", log)
    Path(".dvc/config").write_text(Path(".dvc/config").read_text().replace("    remote = store\n", ""))
    with pytest.raises(ParamsError, match=r"DVC must have a remote.*`dvc remote add"):
        production.promote(None, log)
    with pytest.raises(ParamsError, match="`git remote rename origin upstream`"):
        remote.check_shared("origin")
    git.run("remote", "rename", "origin", "upstream")
    assert experiments.git_remote() is None
