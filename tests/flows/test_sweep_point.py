from pathlib import Path

import pytest

from flows import sweep_point
from tests.flows.conftest import add_remote, git, write_task
from transfer.runtime.errors import ParamsError

pytestmark = pytest.mark.usefixtures("project")


def test_a_clone_must_have_the_code_of_the_sweep() -> None:
    """A clone at another commit, or with changes that are not committed, is refused with what to do there."""
    head = git("rev-parse", "HEAD")
    sweep_point.check_clone(head)
    with pytest.raises(ParamsError, match=rf"at the sweep's commit, 0{{10}}\. Received: {head[:10]}.*`git pull`"):
        sweep_point.check_clone("0" * 40)
    Path("params.yaml").write_text("")  # the sweep has its own
    sweep_point.check_clone(head)
    write_task("download", "changed = True")
    Path("transfer").mkdir()
    Path("transfer/new.py").touch()
    with pytest.raises(ParamsError, match=r"changes in tasks/download\.py, transfer/new\.py\. Run `git stash"):
        sweep_point.check_clone(head)


def test_clones_need_both_remotes(tmp_path: Path) -> None:
    """Without a remote of Git or of DVC the message has the command that adds it."""
    with pytest.raises(ParamsError, match="git remote add origin"):
        sweep_point.git_remote()
    git("remote", "add", "origin", str(tmp_path))
    with pytest.raises(ParamsError, match="dvc remote add"):
        sweep_point.git_remote()
    add_remote(tmp_path)
    assert sweep_point.git_remote() == "origin"
