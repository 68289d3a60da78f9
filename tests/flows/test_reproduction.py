import json
import os
import re
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import dvc_stage, remote, reproduction, workspace
from flows.reproduction import Outcome
from tests.flows.conftest import (
    SLOW,
    TASK,
    add_remote,
    dvc_repro_running,
    git,
    number,
    set_number,
    write_task,
)
from transfer.runtime import errors

METRICS = Path("artifacts/download/metrics.json")
COUNTED = """
Path(".cache/download").mkdir(parents=True, exist_ok=True)
Path(".cache/download/rows.json").write_text(json.dumps({"rows": 9600, "reused": 4800}))
"""

pytestmark = pytest.mark.usefixtures("project")


class Reproduced:
    """The outcome of a stage, and its lines of output."""

    def __init__(
        self, *, stage: str = "download", force: bool = False, pull: bool = False, secrets: dict[str, str] | None = None
    ) -> None:
        """Reproduce a stage, as the flow does."""
        self.output: list[str] = []
        self.outcome = reproduction.reproduce(
            stage, force=force, pull=pull, secrets=secrets or {}, log=self.output.append
        )


@pytest.fixture
def clone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a remote to which all runs were pushed; the current folder."""
    add_remote(tmp_path / "a store")
    remote.push()
    git("clone", "--quiet", str(project), str(tmp_path / "a clone"))
    monkeypatch.chdir(tmp_path / "a clone")
    return tmp_path / "a clone"


def failure(program: str) -> Outcome:
    """Return the outcome of a stage with a program that fails."""
    write_task("download", program)
    outcome = Reproduced().outcome
    assert outcome.name == "Failed"
    return outcome


def report(outcome: Outcome, stage: str) -> bytes:
    """Return the report of a child process."""
    return f"{json.dumps({**asdict(outcome), 'stage': stage})}\n".encode()


def test_a_changed_stage_runs() -> None:
    """With a new value of a parameter the stage runs; its output is logged, DVC's own messages are not."""
    set_number("download", 3)
    write_task("download", f"{TASK}\nprint('counted')\n")
    reproduced = Reproduced()
    assert (reproduced.outcome.name, reproduced.outcome.message) == ("Ran", "")
    assert reproduced.outcome.exit_code == 0
    assert 0 < reproduced.outcome.seconds < 60
    assert number("download") == 3
    assert reproduced.output == ["Running download:", "counted"]


def test_an_unchanged_stage_does_not_run() -> None:
    """A stage that is up to date does not run."""
    reproduced = Reproduced()
    assert (reproduced.outcome.name, reproduced.output) == ("Unchanged", [])


def test_force_runs_an_unchanged_stage() -> None:
    """With `force`, a stage runs although nothing has changed and DVC's cache has the result."""
    before = Path("artifacts/download/made").stat().st_ino
    reproduced = Reproduced(force=True)
    assert reproduced.outcome.name == "Ran"
    assert reproduced.output == ["Running download:"]
    assert Path("artifacts/download/made").stat().st_ino != before


def test_earlier_params_restore_the_result() -> None:
    """With the parameters of an earlier run, output and metrics are restored without the stage running."""
    set_number("download", 2)
    outcome = Reproduced().outcome
    assert (outcome.name, outcome.exit_code) == ("Restored", 0)
    assert number("download") == 2
    assert METRICS.read_text() == '{"sum": 2}'


@pytest.mark.parametrize(
    ("error", "is_transient", "line", "message"),
    [
        (errors.DataError, False, "None is left.", "download: None is left."),
        (errors.NetworkError, True, "download: No answer.", "download: No answer."),
        (errors.AccessError, False, "Accept the rules.", "download: Accept the rules."),
        (errors.ParamsError, False, "`download.number` must be 1.", "`download.number` must be 1."),
    ],
)
def test_a_failed_stage_has_the_last_word(
    error: type[errors.StageError],
    is_transient: bool,  # noqa: FBT001
    line: str,
    message: str,
) -> None:
    """The outcome has the stage's exit code and last line, with its name; only transient errors are retried."""
    outcome = failure(f"import sys\nprint('on the way')\nprint('{line}', file=sys.stderr)\nexit({error.exit_code})")
    assert outcome.message == message
    assert (outcome.exit_code, outcome.is_transient) == (error.exit_code, is_transient)


def test_of_a_traceback_the_message_is_the_error() -> None:
    """The message of a stage that crashed is the last line of its traceback."""
    outcome = failure("raise ValueError('no such thing')")
    assert (outcome.message, outcome.exit_code) == ("download: ValueError: no such thing", 1)


@pytest.mark.reliability(
    "killed", "a stage killed because memory ran out", "the flow run names that cause, without retry"
)
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_message_of_a_killed_stage_names_memory(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL, as from a system without memory, the message names that cause, with any shell; no retry."""
    monkeypatch.setenv("SHELL", shell)
    outcome = failure("import os\nprint('on the way', flush=True)\nos.kill(os.getpid(), 9)")
    assert "memory" in outcome.message
    assert not outcome.is_transient


def test_a_stage_that_prints_nothing_has_its_exit_code_as_message() -> None:
    """Without output of the stage, the message has its exit code, and no line of DVC or of the flow."""
    outcome = failure("exit(3)")
    assert outcome.message == "download: The stage ended with exit code 3 and printed nothing."
    assert outcome.exit_code == 3


def test_what_a_stage_prints_is_no_report() -> None:
    """A stage that prints a report like that of the flow's own process is still judged by its exit code."""
    line = report(Outcome("Ran", ""), "download").decode().strip()
    outcome = failure(
        f"import os, sys\nprint({line!r}, flush=True)\nfor fd in range(3, 99):\n    try:\n"
        f"        os.write(fd, b'{{}}\\n')\n    except OSError:\n        pass\nexit(65)"
    )
    assert (outcome.exit_code, outcome.message) == (65, f"download: {line}")


def test_broken_params_have_dvcs_error_as_message() -> None:
    """If DVC fails before it runs the stage, its error is the message."""
    Path("params.yaml").write_text("download: [")
    outcome = Reproduced().outcome
    assert (outcome.name, outcome.exit_code) == ("Failed", 255)
    assert "params.yaml" in outcome.message
    assert "ERROR" not in outcome.message


def test_a_missing_input_is_named() -> None:
    """A dependency that does not exist and that no stage makes is named."""
    Path("tasks/download.py").unlink()
    outcome = Reproduced().outcome
    assert outcome.exit_code == 255
    assert "tasks/download.py" in outcome.message


def test_secrets_reach_the_stage_and_not_the_log() -> None:
    """A secret is in the stage's environment; in the stage's output and in the message it is masked."""
    write_task("download", "import os\nprint('KEY', os.environ['KAGGLE_KEY'])\nexit(77)")
    reproduced = Reproduced(secrets={"KAGGLE_KEY": "s3cret"})
    assert reproduced.outcome.message == "download: KEY ********"
    assert "KEY ********" in reproduced.output
    assert "s3cret" not in "".join(reproduced.output)


@pytest.mark.usefixtures("clone")
def test_a_clone_restores_a_run_of_another() -> None:
    """In a clone the remote's run is restored with metrics, without the stage running; then the stage is unchanged."""
    set_number("download", 2)
    outcome = Reproduced(pull=True).outcome
    assert outcome.name == "Restored"
    assert "remote" in outcome.message
    assert number("download") == 2
    assert METRICS.read_text() == '{"sum": 2}'
    assert Reproduced().outcome.name == "Unchanged"


def test_an_earlier_run_of_this_clone_is_restored_from_its_own_cache(tmp_path: Path) -> None:
    """An earlier run of this clone is restored from its own cache, and the message names that."""
    add_remote(tmp_path / "an empty store")
    set_number("download", 2)
    outcome = Reproduced(pull=True).outcome
    assert outcome.name == "Restored"
    assert "remote" not in outcome.message


def test_a_stage_runs_without_a_remote_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the remote cannot be reached, the log names it in a line or two, and the stage runs."""
    add_remote("s3://bucket/store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    set_number("download", 3)
    secrets = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    reproduced = Reproduced(pull=True, secrets=secrets)
    assert reproduced.outcome.name == "Ran"
    assert any("127.0.0.1:1" in line for line in reproduced.output)
    assert any("going on without it" in line for line in reproduced.output)
    assert not any("Traceback" in line for line in reproduced.output)


@pytest.mark.reliability(
    "two at once", "a flow run beside your own `dvc repro`", "the flow waits, names it, and takes the result"
)
@pytest.mark.parametrize("pull", [False, True])
def test_a_stage_waits_for_a_dvc_that_runs_it(pull: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """While a user's own `dvc repro` runs the stage, it is named and waited for; its result is used."""
    add_remote(tmp_path / "an empty store")
    partial = Path("artifacts/download/partial")
    output: list[str] = []
    existed: list[bool] = []

    def release(line: str) -> None:
        output.append(line)
        if line.startswith("Waiting for"):
            existed.append(partial.exists())
            Path("go").touch()

    with dvc_repro_running("download") as other:
        partial.parent.mkdir(exist_ok=True)
        partial.touch()
        outcome = reproduction.reproduce("download", pull=pull, secrets={}, log=release)
    assert outcome.name == "Unchanged"
    (waiting,) = [line for line in output if line.startswith("Waiting for")]
    assert f"(PID {other.pid})" in waiting
    assert existed == [True]


@pytest.mark.reliability("two at once", "a flow run that has waited for an hour", "ends; the message names the other")
def test_waiting_for_a_busy_dvc_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `LONGEST_WAIT`, the stage fails with a message that names the process that uses the workspace."""
    monkeypatch.setattr(workspace, "LONGEST_WAIT", 0.0)
    with dvc_repro_running("download") as other:
        outcome, _ = dvc_stage.reproduce("download", force=False, pull=False, upstream=False)
    assert (outcome.name, outcome.exit_code) == ("Failed", 1)
    assert f"(PID {other.pid})" in outcome.message


def test_no_process_remains_of_an_interrupted_stage() -> None:
    """An interruption, as of a cancelled run, terminates the stage before it is raised again."""
    write_task("download", f"print('begun', flush=True)\n{SLOW}")

    def interrupt(line: str) -> None:
        if line == "begun":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduction.reproduce("download", secrets={}, log=interrupt)
    assert workspace.orphans() == []


def test_a_killed_child_process_is_a_failure() -> None:
    """If the process that runs DVC is killed, the stage is terminated, and has failed with that exit code."""
    write_task("download", f"print('begun', flush=True)\n{SLOW}")

    def kill(line: str) -> None:
        if line == "begun":
            (child,) = [process for process in psutil.Process().children() if "flows.dvc_stage" in process.cmdline()]
            os.kill(child.pid, signal.SIGKILL)

    outcome = reproduction.reproduce("download", secrets={}, log=kill)
    assert (outcome.name, outcome.exit_code) == ("Failed", -9)
    assert outcome.message == "download: DVC ended with exit code -9: begun"
    assert workspace.orphans() == []


def test_the_rows_that_a_stage_counts_are_in_the_outcome() -> None:
    """A stage that writes its counts has them in the outcome; counts of an earlier run are not used."""
    write_task("download", TASK + COUNTED)
    outcome = Reproduced().outcome
    assert (outcome.rows, outcome.reused) == (9600, 4800)
    write_task("download", TASK)
    set_number("download", 3)
    outcome = Reproduced().outcome
    assert (outcome.name, outcome.rows, outcome.reused) == ("Ran", None, None)


@pytest.mark.parametrize("output", [["Running split:", "> x"], []])
def test_dvc_that_ends_without_a_report_is_a_failure(output: list[str]) -> None:
    """A child process that reports nothing has failed; the message has its exit code and last line."""
    outcome = reproduction.outcome_of("split", b"", -9, output)
    expected = ": > x" if output else " and printed nothing."
    assert (outcome.name, outcome.message) == ("Failed", f"split: DVC ended with exit code -9{expected}")
    assert reproduction.outcome_of("split", b'{"name":', -9, output) == outcome


def test_a_line_before_the_stage_is_not_its_message() -> None:
    """The message of a stage that printed nothing is no line of the flow's own process."""
    output = ["DVC's remote cannot be used now.", "Running split:"]
    outcome = reproduction.outcome_of("split", report(Outcome("Failed", "", exit_code=3), "split"), 1, output)
    assert outcome.message == "split: The stage ended with exit code 3 and printed nothing."


def test_with_upstream_stages_the_message_is_of_the_failed_one() -> None:
    """With `upstream`, the stages that a stage needs run first; the message of one that fails has its name."""
    set_number("download", 3)
    assert reproduction.reproduce("evaluate", upstream=True, secrets={}, log=lambda _: None).name == "Ran"
    assert number("evaluate") == 1116
    write_task("download", "print('None is left.')\nexit(65)")
    outcome = reproduction.reproduce("evaluate", upstream=True, secrets={}, log=lambda _: None)
    assert (outcome.exit_code, outcome.message) == (65, "download: None is left.")


def test_a_long_message_of_dvc_fits_into_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of any length is cut, so that the report never waits for a reader."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("x" * 10**6)

    monkeypatch.setattr(dvc_stage.RunCache, "restore", fail)
    set_number("download", 3)
    outcome, _ = dvc_stage.reproduce("download", force=False, pull=False, upstream=False)
    assert (outcome.name, outcome.exit_code) == ("Failed", 255)
    assert re.fullmatch("x{100,4000}", outcome.message)
