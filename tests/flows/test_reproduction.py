import ast
import re
from pathlib import Path

import pytest

from flows import remote, reproduction, workspace
from flows.reproduction import Outcome
from tests.flows.conftest import (
    ROOT,
    SLOW,
    TASK,
    add_remote,
    git,
    number,
    set_number,
    someone_reproducing,
    write_task,
)
from transfer.runtime import errors

METRICS = Path("artifacts/download/metrics.json")

pytestmark = pytest.mark.usefixtures("project")


class Reproduced:
    """What came of a stage, and the lines that were said."""

    def __init__(
        self, *, stage: str = "download", force: bool = False, pull: bool = False, secrets: dict[str, str] | None = None
    ) -> None:
        """Reproduce a stage, as the flow does."""
        self.said: list[str] = []
        self.outcome = reproduction.reproduce(
            stage, force=force, pull=pull, secrets=secrets or {}, say=self.said.append
        )


@pytest.fixture
def clone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a remote to which all runs were pushed, and the current folder."""
    add_remote(tmp_path / "a store")
    remote.push()
    git("clone", "--quiet", str(project), str(tmp_path / "a clone"))
    monkeypatch.chdir(tmp_path / "a clone")
    return tmp_path / "a clone"


def fails(program: str) -> Outcome:
    """What comes of a stage with this program."""
    write_task("download", program)
    outcome = Reproduced().outcome
    assert outcome.name == "Failed"
    return outcome


def test_a_changed_stage_runs() -> None:
    """With a param that it never had, the stage runs; its lines are told, DVC's advice to people is not."""
    set_number("download", 3)
    write_task("download", f"{TASK}\nprint('counted')\n")
    reproduced = Reproduced()
    assert (reproduced.outcome.name, reproduced.outcome.message) == ("Ran", "")
    assert reproduced.outcome.exit_code == 0
    assert 0 < reproduced.outcome.seconds < 60
    assert number("download") == 3
    assert "counted" in reproduced.said
    assert [line for line in reproduced.said if re.search("git add|dvc push|dvc config|track the changes", line)] == []


def test_an_unchanged_stage_is_left_alone() -> None:
    """A stage that is up to date does not run."""
    assert Reproduced().outcome.name == "Unchanged"


def test_force_runs_an_unchanged_stage() -> None:
    """Forced, a stage runs although nothing has changed and DVC remembers the result."""
    before = Path("artifacts/download/made").stat().st_ino
    reproduced = Reproduced(force=True)
    assert reproduced.outcome.name == "Ran"
    assert "Running stage 'download':" in reproduced.said
    assert Path("artifacts/download/made").stat().st_ino != before


def test_params_that_are_back_restore_the_result() -> None:
    """With the params of an earlier run its output and metrics come back without the stage running."""
    set_number("download", 2)
    outcome = Reproduced().outcome
    assert (outcome.name, outcome.exit_code) == ("Restored", 0)
    assert number("download") == 2
    assert METRICS.read_text() == '{"sum": 2}'


@pytest.mark.parametrize(
    ("error", "passing", "words", "message"),
    [
        (errors.DataError, False, "None is left.", "download: None is left."),
        (errors.NetworkError, True, "download: No answer.", "download: No answer."),
        (errors.AccessError, False, "Accept the rules.", "download: Accept the rules."),
        (errors.ParamsError, False, "`download.number` must be 1.", "`download.number` must be 1."),
    ],
)
def test_a_failed_stage_has_the_last_word(
    error: type[errors.StageError],
    passing: bool,  # noqa: FBT001
    words: str,
    message: str,
) -> None:
    """Its code and last line are what comes of it, with its name; only trouble of the network is worth another try."""
    outcome = fails(f"import sys\nprint('on the way')\nprint('{words}', file=sys.stderr)\nexit({error.exit_code})")
    assert outcome.message == message
    assert (outcome.exit_code, outcome.passing) == (error.exit_code, passing)


def test_a_crash_is_told_by_its_last_line() -> None:
    """Of a traceback the error itself is the message."""
    outcome = fails("raise ValueError('no such thing')")
    assert (outcome.message, outcome.exit_code) == ("download: ValueError: no such thing", 1)


@pytest.mark.reliability(
    "killed", "a stage killed for want of memory", "the flow run says that, and does not try again"
)
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_killed_stage_is_told_why(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with -9, as for want of memory, the message says so, whichever shell DVC uses; no retry would help."""
    monkeypatch.setenv("SHELL", shell)
    outcome = fails("import os\nprint('on the way', flush=True)\nos.kill(os.getpid(), 9)")
    assert "memory" in outcome.message
    assert not outcome.passing


def test_broken_params_are_told_in_dvcs_words() -> None:
    """Where DVC does not come to run the stage, its own error is the message."""
    Path("params.yaml").write_text("download: [")
    outcome = Reproduced().outcome
    assert (outcome.name, outcome.exit_code) == ("Failed", 255)
    assert "params.yaml" in outcome.message
    assert "ERROR" not in outcome.message


def test_a_missing_input_is_told_in_dvcs_words() -> None:
    """What a stage reads and nobody makes is named."""
    Path("tasks/download.py").unlink()
    assert "tasks/download.py" in Reproduced().outcome.message


def test_a_stage_knows_the_secrets_and_the_log_does_not() -> None:
    """A secret is in the stage's environment; where the stage says it, it is masked, also in the message."""
    write_task("download", "import os\nprint('KEY', os.environ['KAGGLE_KEY'])\nexit(77)")
    reproduced = Reproduced(secrets={"KAGGLE_KEY": "s3cret"})
    assert reproduced.outcome.message == "download: KEY ********"
    assert "KEY ********" in reproduced.said
    assert "s3cret" not in "".join(reproduced.said)


@pytest.mark.usefixtures("clone")
def test_a_clone_takes_what_another_ran() -> None:
    """In a clone the remote's run comes without the stage running, metrics and all, and then DVC has nothing to do."""
    set_number("download", 2)
    outcome = Reproduced(pull=True).outcome
    assert outcome.name == "Restored"
    assert "remote" in outcome.message
    assert number("download") == 2
    assert METRICS.read_text() == '{"sum": 2}'
    assert Reproduced().outcome.name == "Unchanged"


def test_what_is_here_does_not_come_from_the_remote(tmp_path: Path) -> None:
    """An earlier run of this very clone is restored from its own cache, and that is what is said."""
    add_remote(tmp_path / "an empty store")
    set_number("download", 2)
    outcome = Reproduced(pull=True).outcome
    assert outcome.name == "Restored"
    assert "remote" not in outcome.message


def test_a_remote_that_is_down_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote that cannot be reached is said to be of no help, in a line or two, and the stage runs."""
    add_remote("s3://bucket/store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    set_number("download", 3)
    secrets = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    reproduced = Reproduced(pull=True, secrets=secrets)
    assert reproduced.outcome.name == "Ran"
    assert any("127.0.0.1:1" in line for line in reproduced.said)
    assert any("going on without it" in line for line in reproduced.said)
    assert not any("Traceback" in line for line in reproduced.said)


@pytest.mark.reliability(
    "two at once", "a flow run beside your own `dvc repro`", "the flow waits, says for whom, and takes the result"
)
@pytest.mark.parametrize("pull", [False, True])
def test_a_busy_dvc_is_waited_for(pull: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """While somebody's own `dvc repro` has the stage, it is named and waited for; its result is then taken."""
    monkeypatch.setattr(workspace, "_PAUSE", 0.1)
    add_remote(tmp_path / "an empty store")
    said: list[str] = []

    def release(line: str) -> None:
        said.append(line)
        if line.startswith("Waiting for"):
            Path("go").touch()

    with someone_reproducing("download") as other:
        outcome = reproduction.reproduce("download", force=False, pull=pull, secrets={}, say=release)
    assert outcome.name == "Unchanged"
    (waiting,) = [line for line in said if line.startswith("Waiting for")]
    assert f"(PID {other.pid})" in waiting


@pytest.mark.reliability("two at once", "a flow run that has waited for an hour", "ends, naming who has the workspace")
def test_waiting_for_a_busy_dvc_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the patience is over, the error names who has the workspace."""
    monkeypatch.setattr(workspace, "PATIENCE", 0.0)
    with someone_reproducing("download") as other, pytest.raises(workspace.BusyError, match=rf"\(PID {other.pid}\)"):
        Reproduced()


def test_nothing_is_left_of_an_interrupted_stage() -> None:
    """An interruption, as from a cancelled run, ends the stage before it is passed on."""
    write_task("download", f"print('begun', flush=True)\n{SLOW}")

    def interrupt(line: str) -> None:
        if line == "begun":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduction.reproduce("download", force=False, pull=False, secrets={}, say=interrupt)
    assert workspace.leftovers() == []


def test_the_rows_that_were_reused_are_read_from_the_stages_own_line() -> None:
    """What extract_features logs says how many rows there are and how many of them were there before."""
    tree = ast.parse((ROOT / "tasks/extract_features.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.info"]
    (form,) = [call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)]
    said = [
        "Running stage 'extract_features':",
        "> exec python -m tasks extract_features",
        form % (9600, 4800),
        "Done.",
    ]
    outcome = reproduction.outcome("extract_features", 0, said, seconds=1.0)
    assert outcome == Outcome("Ran", "", 1.0, 0, rows=9600, reused=4800)


def test_a_stage_without_rows_has_none() -> None:
    """A stage that says nothing of rows is told from one that reused none."""
    outcome = reproduction.outcome("split", 0, ["Running stage 'split':", "split: 20 photographs"], seconds=1.0)
    assert (outcome.rows, outcome.reused) == (None, None)


def test_a_stage_that_says_nothing_is_told_by_its_code() -> None:
    """Without a word from the stage the message has its exit code, and none of DVC's lines."""
    said = [
        "Running stage 'split':",
        "> exit 3",
        "ERROR: failed to reproduce 'split': failed to run: exit 3, exited with 3",
    ]
    outcome = reproduction.outcome("split", 255, said, seconds=1.0)
    assert outcome.message == "split: The stage ended with exit code 3 and said nothing."
    assert outcome.exit_code == 3


def test_dvc_that_says_nothing_is_told_by_its_code() -> None:
    """A DVC that was killed and said nothing is a failure with a message all the same."""
    outcome = reproduction.outcome("split", -9, [], seconds=1.0)
    assert (outcome.name, outcome.message) == ("Failed", "split: DVC ended with exit code -9 and said nothing.")
