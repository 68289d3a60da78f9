"""What is checked before DVC runs or removes anything."""

import os
import shutil
from pathlib import Path

import pytest

from flows import preconditions
from transfer.runtime.errors import DataError, ParamsError

pytestmark = pytest.mark.usefixtures("project")


def test_a_project_in_order_passes() -> None:
    """A Git repository with artifacts in folders passes, also before the first commit and without artifacts."""
    preconditions.check()
    shutil.rmtree("artifacts")
    preconditions.check()


def test_a_project_without_git_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A project that was downloaded without its repository is refused with the command that makes one."""
    shutil.rmtree(".git")
    assert preconditions.main([]) == 78
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "Run `git init` once" in message


def test_a_project_without_git_passes_if_dvc_does_not_use_it() -> None:
    """With `core.no_scm`, as in the demo, no repository is needed."""
    shutil.rmtree(".git")
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n")
    preconditions.check()


def test_a_missing_file_of_corrections_is_written() -> None:
    """DVC ends with an error if a dependency is missing; no corrections are a file without lines. Others are kept."""
    preconditions.check()
    assert Path("corrections.csv").read_text() == "sha256,class,note\n"
    Path("corrections.csv").write_text("sha256,class\n")
    preconditions.check()
    assert Path("corrections.csv").read_text() == "sha256,class\n"


@pytest.mark.reliability(
    "disk",
    "`artifacts`, or a folder in it, is a link",
    "exit 78 before a stage runs; the message has `dvc cache dir`",
)
@pytest.mark.parametrize("name", ["artifacts", "artifacts/train_head"])
@pytest.mark.parametrize("existing", [True, False])
def test_artifacts_on_another_disk_are_refused(tmp_path: Path, name: str, *, existing: bool) -> None:
    """A link in place of a folder of artifacts is refused, whether its target exists or not, with another way."""
    shutil.rmtree(name)
    target = tmp_path / "large"
    if existing:
        target.mkdir()
    Path(name).symlink_to(target)
    with pytest.raises(ParamsError, match=rf"^`{name}` must be a folder.*`dvc cache dir --local FOLDER`"):
        preconditions.check()


def test_a_link_to_a_file_is_no_folder() -> None:
    """Files in `artifacts/` may be links."""
    Path("artifacts/notes").symlink_to("../params.yaml")
    preconditions.check()


@pytest.mark.reliability(
    "tampered", "a conflict of a merge in `dvc.lock`", "exit 65 before a stage runs; the message has the remedy"
)
@pytest.mark.parametrize(
    ("name", "remedy"), [("dvc.lock", "git checkout --ours dvc.lock"), ("params.yaml", "Edit it"), ("dvc.yaml", "Edit")]
)
def test_conflicts_of_a_merge_are_named(name: str, remedy: str) -> None:
    """A file with conflicts is refused in one line with what to do."""
    content = Path(name).read_text()
    Path(name).write_text(f"<<<<<<< HEAD\n{content}=======\n{content}>>>>>>> theirs\n")
    with pytest.raises(DataError, match=rf"^`{name}` must have no conflicts") as refused:
        preconditions.check()
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.reliability(
    "photographs",
    "a pipe or device in the inbox, under `dogs-vs-cats run` or a flow",
    "exit 65 with its name before DVC, which would wait for it, looks at the inbox",
)
def test_an_inbox_that_dvc_cannot_hash_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """DVC would wait for ever at a pipe: it is named first."""
    Path("inbox/cat").mkdir(parents=True)
    os.mkfifo("inbox/cat/1.jpg")
    assert preconditions.main([]) == 65
    assert "inbox/cat/1.jpg" in capsys.readouterr().err
