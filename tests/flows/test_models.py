import shutil
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows import git, models, production
from tests.flows.test_production import Train, train, workspace  # noqa: F401 - fixtures
from transfer.runtime.errors import DataError


@pytest.mark.reliability(
    "tampered", "a version's network in DVC's cache or remote has other bytes", "it is refused by its hash in dvc.lock"
)
def test_a_damaged_copy_is_not_used(train: Train) -> None:  # noqa: F811 - the fixture
    """A file with other bytes than dvc.lock says is refused, and leaves nothing."""
    commit = train("first", 2.0).commit
    expected = (models.fetch(commit) / "model.keras").read_bytes()
    shutil.rmtree(".cache/models")
    (cached,) = [
        path for path in Path(".dvc/cache/files").rglob("*") if path.is_file() and path.read_bytes() == expected
    ]
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"artifacts/fine_tune/model\.keras` must have the MD5 of dvc.lock"):
        models.fetch(commit)
    assert list(Path(".cache/models").iterdir()) == []


def test_a_commit_without_the_artifact_is_refused(train: Train) -> None:  # noqa: F811 - the fixture
    """A run of a dvc.yaml without `artifacts:` could not be found by `dvc artifacts get`, so the message says so."""
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("classifier:", "other:"))
    with pytest.raises(DataError, match="must have the artifact `classifier`"):
        models.fetch(train("first", 2.0).commit)
    assert git.run("tag") == ""


def test_a_remote_without_the_rows_of_a_version_is_noticed(train: Train) -> None:  # noqa: F811 - the fixture
    """Predictions need rows.npz beside the network, so no tag is pushed before DVC's remote has it."""
    saved = train("first", 2.0)
    with Repo(".", rev=saved.commit) as repo:
        md5 = repo.dvcfs.info(models.ROWS.as_posix())["dvc_info"]["md5"]
    Path(".dvc/cache/files/md5", md5[:2], md5[2:]).unlink()
    with pytest.raises(DvcException, match=r"artifacts/fine_tune/rows\.npz"):
        production.push_data(saved.commit, print)
