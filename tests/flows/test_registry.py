import os
from pathlib import Path

import gto.api
import pytest

from flows import git, registry
from tests.flows.test_experiments import everything
from transfer.prediction import versions
from transfer.runtime.errors import DataError


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bare repository and two clones of it, `one` and `two`; the first is the current folder."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    git.run("init", "--quiet", "--bare", "--initial-branch=main", "bare")
    for name in ("one", "two"):
        git.run("clone", "--quiet", "bare", name)
    monkeypatch.chdir(tmp_path / "one")
    return tmp_path


@pytest.fixture
def commits(shared: Path) -> list[str]:
    """Commits of saved runs: on no branch."""
    assert shared
    tree = git.run("mktree")
    return [git.run("commit-tree", tree, "-m", f"Run {n}", environment=git.identity()) for n in range(4)]


def promote(commit: str, reason: str = "Better.") -> str:
    """Put a commit into production, as decided on the present registry."""
    registry.fetch()
    return registry.promote(registry.read(), commit, reason=reason)


def history() -> list[tuple[int, str]]:
    """Return the number and the version of all that were in production."""
    return [(assignment.number, assignment.version) for assignment in registry.read().assignments]


def test_a_promotion_is_known_to_every_clone(shared: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, commit, reason and details reach another clone by Git alone; a later version replaces the first."""
    assert promote(commits[0]) == "v1.0.0"
    assert registry.promote(registry.read(), commits[1], reason="Much better.", details='{"a": 1}') == "v2.0.0"
    monkeypatch.chdir(shared / "two")
    assert registry.read().production is None
    registry.fetch()
    production = registry.read().production
    assert production is not None
    assert production[:3] == (2, "v2.0.0", commits[1])
    assert (production.reason, production.details.strip()) == ("Much better.", '{"a": 1}')
    assert registry.read().versions == {"v1.0.0": commits[0], "v2.0.0": commits[1]}


def test_gto_reads_the_registry(commits: list[str]) -> None:
    """GTO knows the versions and the one in production, also after a rollback in the same second."""
    for commit in (commits[0], commits[1], commits[0]):
        promote(commit)
    assert history() == [(1, "v1.0.0"), (2, "v2.0.0"), (3, "v1.0.0")]
    assert gto.api.show(".")["classifier"]["version"] == "v2.0.0"
    (shown,) = gto.api.show(".", "classifier#prod")
    assert shown["version"] == "v1.0.0"


def test_head_index_and_tree_stay(shared: Path, commits: list[str]) -> None:
    """A promotion changes neither HEAD, index, branches nor a dirty tree: it adds tags alone."""
    assert shared
    Path("staged").write_text("staged")
    git.run("add", "staged")
    Path("staged").write_text("changed")
    Path(".dvc").mkdir()
    before = everything()
    promote(commits[0])
    after = everything()
    branches = str(after.pop("branches")).splitlines()
    assert [line.split("\t")[1] for line in branches] == ["refs/tags/classifier#prod#1", "refs/tags/classifier@v1.0.0"]
    before.pop("branches")
    assert after == before


@pytest.mark.reliability(
    "two at once", "two promotions on two machines", "the second tag is refused, and the second decides again"
)
def test_of_two_at_once_one_wins(shared: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided on the same state, the second promotion fails whole, and knows what the first has promoted."""
    decided = registry.read()
    registry.promote(decided, commits[0], reason="First.")
    monkeypatch.chdir(shared / "two")
    tree = git.run("mktree")
    other = git.run("commit-tree", tree, "-m", "Another run", environment=git.identity())
    assert registry.read() == decided
    with pytest.raises(registry.OutdatedError):
        registry.promote(decided, other, reason="Second.")
    production = registry.read().production
    assert production is not None
    assert production.commit == commits[0]
    assert git.run("ls-remote", "--tags", "origin").count("refs/tags/classifier") == 4  # two tags, each with its commit
    assert registry.promote(registry.read(), other, reason="Decided again.") == "v2.0.0"


def test_of_two_at_once_in_a_project_without_remote_one_wins(
    shared: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a Git remote, the local repository refuses the second tag."""
    assert shared
    git.run("remote", "remove", "origin")
    decided = registry.read()
    registry.promote(decided, commits[0], reason="First.")
    with pytest.raises(registry.OutdatedError):
        registry.promote(decided, commits[1], reason="Second.")
    assert history() == [(1, "v1.0.0")]
    monkeypatch.chdir("/")
    assert registry.read() == ({}, [])


def test_a_remote_that_refuses_leaves_nothing(shared: Path, commits: list[str]) -> None:
    """If the push fails, neither the remote nor this clone has a tag, and the message is Git's."""
    hook = shared / "bare/hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho closed >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(git.GitError, match="closed"):
        promote(commits[0])
    assert registry.read() == ({}, [])
    assert git.run("ls-remote", "--tags", "origin") == ""


@pytest.mark.reliability(
    "network", "the connection ends after Git's remote has taken a promotion's tags", "the promotion counts"
)
def test_a_lost_answer_is_no_failure(shared: Path, commits: list[str]) -> None:
    """If the connection ends after the remote has taken the tags, the promotion counts."""
    hook = shared / "bare/hooks/post-receive"
    hook.write_text("#!/bin/sh\nkill -9 $(ps -o ppid= -p $PPID)\n")
    hook.chmod(0o755)
    assert promote(commits[0]) == "v1.0.0"
    assert history() == [(1, "v1.0.0")]


def test_rolling_back_goes_one_version_back(commits: list[str]) -> None:
    """By default the version before; one that was rolled back is left out, and a named one may be any."""
    for commit in commits[:3]:
        promote(commit)
    assert registry.target(registry.read(), None) == "v2.0.0"
    promote(commits[1])
    assert registry.target(registry.read(), None) == "v1.0.0"
    promote(commits[3])
    assert registry.target(registry.read(), None) == "v2.0.0"
    assert registry.target(registry.read(), "v3.0.0") == "v3.0.0"
    with pytest.raises(DataError, match=r"v4\.0\.0 is in production already"):
        registry.target(registry.read(), "v4.0.0")
    with pytest.raises(DataError, match=r"v1\.0\.0, v2\.0\.0, v3\.0\.0, v4\.0\.0\. Received: v9\.0\.0"):
        registry.target(registry.read(), "v9.0.0")


def test_there_may_be_nothing_to_roll_back_to(commits: list[str]) -> None:
    """Before a second promotion, a rollback says that there is no earlier version."""
    promote(commits[0])
    with pytest.raises(DataError, match="earlier version"):
        registry.target(registry.read(), None)


def test_other_tags_are_left_alone(commits: list[str]) -> None:
    """Tags of other artifacts, without a message or with other forms of names are no versions, and stay here."""
    for name in ("classifier@v7", "classifier@v1.0.0-rc1", "classifier#dev#1", "other#prod#1", "v1.0.0"):
        git.run("-c", "user.name=a", "-c", "user.email=a", "tag", "-a", "-m", "x", name, commits[0])
    git.run("tag", "classifier@v3.0.0", commits[0])
    assert registry.read() == ({}, [])
    assert registry.unshared() == {}


def test_a_project_may_be_a_folder_of_its_repository(
    shared: Path, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags then have the folder in their names, as GTO and DVC expect it."""
    (shared / "one/pets").mkdir()
    monkeypatch.chdir(shared / "one/pets")
    promote(commits[0])
    assert "pets=classifier#prod#1" in git.run("tag")
    assert history() == [(1, "v1.0.0")]
    assert versions.read(shared / "one") == ({}, [])
