"""Reproduction: bring one stage up to date in a child process, which reports the outcome as one line of JSON."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flows import masking, processes, workspace
from transfer.runtime.errors import NetworkError

DVC_FAILED = 255  # the exit code of DVC's own program for its errors
_PACKAGES = Path(__file__).parents[1]
_KILLED = (-9, 137)  # by SIGKILL, of the stage itself or of a shell's child


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage; `name` is the name of its task run's state.

    `exit_code` is 0, the stage's own, or 255 if DVC itself failed. `reused` is the number of the stage's `rows` that
    were computed before; both are None for a stage that computes no rows.
    """

    name: Literal["Ran", "Restored", "Unchanged", "Failed", "NotReady"]
    message: str
    seconds: float = 0.0
    exit_code: int = 0
    rows: int | None = None
    reused: int | None = None

    @property
    def is_transient(self) -> bool:
        """Whether another attempt may succeed after this failure."""
        return self.exit_code == NetworkError.exit_code


def failure(outcomes: Iterable[Outcome]) -> tuple[str, int] | None:
    """Return the messages of all stages that failed, and the exit code of the first; None if no stage failed."""
    failed = [outcome for outcome in outcomes if outcome.name == "Failed"]
    return (" ".join(outcome.message for outcome in failed), failed[0].exit_code) if failed else None


def reproduce(
    stage: str,
    *,
    force: bool = False,
    pull: bool = False,
    upstream: bool = False,
    variables: Mapping[str, str] | None = None,
    secrets: Mapping[str, str],
    log: Callable[[str], None],
) -> Outcome:
    """Bring one stage up to date in a child process; when this returns or raises, all its processes have ended.

    While another process of DVC works on the stage's files, the child waits for it, up to `workspace.LONGEST_WAIT`.

    Args:
        stage: its name in dvc.yaml.
        force: run it even if nothing has changed.
        pull: restore an earlier run from DVC's remote; if that cannot be reached, go on without it.
        upstream: first bring the stages up to date that this one needs.
        variables: variables for the stage's environment.
        secrets: more of them; their values are masked in the output.
        log: called with each line of output.
    """
    started = time.monotonic()
    options = {"--force": force, "--pull": pull, "--upstream": upstream}
    receiving, sending = os.pipe()
    os.set_blocking(receiving, False)  # a child that was killed has written nothing
    with os.fdopen(receiving, "rb", buffering=0) as reports, os.fdopen(sending, "wb", buffering=0):
        command = [sys.executable, "-m", "flows.dvc_stage", stage, "--report", str(sending)]
        command += [option for option, chosen in options.items() if chosen]
        code, output = processes.run(
            command, {**_environment(), **(variables or {})}, secrets=secrets, log=log, pass_fds=[sending]
        )
        report = reports.read(1 << 16) or b""
    outcome = outcome_of(stage, report, code, output)
    message = masking.masked(outcome.message, secrets.values())
    return replace(outcome, message=message, seconds=time.monotonic() - started)


def _environment() -> dict[str, str]:
    """Return the variables of the child process, which imports this package from any current folder."""
    variables = workspace.environment()
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), variables.get("PYTHONPATH")]))}


def outcome_of(stage: str, report: bytes, code: int, output: Sequence[str]) -> Outcome:
    """Return the outcome of a child process.

    Args:
        stage: the name of its stage.
        report: its report, see `flows.dvc_stage`; incomplete if it was killed.
        code: its exit code.
        output: its lines of output.
    """
    if not report.endswith(b"\n"):
        last = f": {output[-1]}" if output else " and printed nothing."
        return Outcome("Failed", f"{stage}: DVC ended with exit code {code}{last}", exit_code=code)
    fields = json.loads(report)
    stage = fields.pop("stage")
    outcome = Outcome(**fields)
    if outcome.name != "Failed":
        return outcome
    own = output[output.index(header(stage)) + 1 :] if header(stage) in output else []
    message = outcome.message or _message(outcome.exit_code, own)
    named = message.startswith((f"{stage}: ", f"`{stage}"))
    return replace(outcome, message=message if named else f"{stage}: {message}")


def header(stage: str) -> str:
    """Return the line that the child process prints before the output of a stage."""
    return f"Running {stage}:"


def _message(exit_code: int, output: Sequence[str]) -> str:
    """Return the error message of a stage that failed: its last line of output, unless it was killed."""
    if exit_code in _KILLED:
        return "The stage was killed, as the system does when memory runs out. Rerun it with more memory free."
    return output[-1] if output else f"The stage ended with exit code {exit_code} and printed nothing."
