import subprocess
from pathlib import Path

import pytest

from flows import git


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "--quiet"], check=True)


def test_an_error_has_git_s_own_message() -> None:
    """A command that fails raises with its name and Git's message."""
    with pytest.raises(git.GitError, match=r"^`git show` failed: .*nothing"):
        git.run("show", "nothing")


def test_commits_have_an_author_without_configuration() -> None:
    """Where the user has configured no name, the project's is used; a configured one stays."""
    tree = git.run("mktree", stdin="")
    commit = git.run("commit-tree", tree, "-m", "x", environment=git.identity())
    assert git.run("show", "-s", "--format=%an <%ae>", commit) == "dogs-vs-cats <dogs-vs-cats>"
    git.run("config", "user.name", "Somebody")
    git.run("config", "user.email", "somebody@example.org")
    assert git.identity() == {}
