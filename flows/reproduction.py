"""Reproduction: one stage brought up to date by DVC in processes of its own, and what came of it."""

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flows import processes, remote, workspace
from transfer.runtime.errors import NetworkError

_FAILED = re.compile(r"ERROR: failed to reproduce .*, exited with (?P<exit_code>-?\d+)")
_OF_DVC = re.compile(r"ERROR: (?P<message>.+)")
_RESTORED = "is cached - skipping run, checking out outputs"
_RUNNING = "Running stage '"
_BUSY = "is busy, it is being blocked by"
_REUSED = re.compile(r"\w+: (?P<rows>\d+) rows, (?P<reused>\d+) of them computed before")
# advice for somebody who sits at the terminal
_ADVICE = re.compile(r"To (track the changes|enable auto staging)|\s+(git add|dvc config) |Use `dvc push`")


@dataclass(frozen=True)
class Outcome:
    """What came of a stage, by the name that its task run's state has.

    `exit_code` is 0, the stage's own, or 255 where DVC itself failed; `reused` tells how many of the stage's `rows`
    were there before, for one that makes rows.
    """

    name: Literal["Ran", "Restored", "Unchanged", "Failed", "NotReady"]
    message: str
    seconds: float = 0.0
    exit_code: int = 0
    rows: int | None = None
    reused: int | None = None

    @property
    def passing(self) -> bool:
        """Whether another try may succeed where this one failed."""
        return self.exit_code == NetworkError.exit_code


def reproduce(
    stage: str, *, force: bool, pull: bool, secrets: Mapping[str, str], say: Callable[[str], None]
) -> Outcome:
    """Bring one stage up to date; nothing it started is left when this returns or raises.

    While another process of DVC has what the stage needs, it is waited for.

    Args:
        stage: its name in dvc.yaml.
        force: run it even if nothing has changed.
        pull: bring what an earlier run left in DVC's remote; if that cannot be reached, the stage goes on without it.
        secrets: variables for the stage's environment; their values are kept out of all that is said.
        say: told what DVC and the stage say, a line at a time.

    Raises:
        BusyError: another process was not done within `workspace.PATIENCE` seconds.
    """
    started = time.monotonic()
    code, said = 0, list[str]()
    brought = _brought(stage, secrets=secrets, say=say) if pull and not force else None

    def reproduced() -> bool:
        nonlocal code, said
        # at a stage's end DVC wants its lock back; without waiting for it the stage would have run in vain
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
        command += ["--force"] if force else []
        code, said = processes.run(command, workspace.environment(), secrets=secrets, say=_but_advice(say))
        return code == 0 or not any(_BUSY in line for line in said)

    workspace.patiently(reproduced, workspace.dvc_holders, say)
    return outcome(stage, code, said, seconds=time.monotonic() - started, brought=brought)


def _brought(stage: str, *, secrets: Mapping[str, str], say: Callable[[str], None]) -> str | None:
    """Where an earlier run of the stage was found; nowhere if the remote cannot be reached, which is said."""
    if workspace.dvc_holders():
        return None  # who is at work here may be making it; DVC will wait and see
    command = [sys.executable, "-m", "flows.remote", "pull", stage]
    code, said = processes.run(command, workspace.environment(), secrets=secrets, say=say)
    if code:
        say("DVC's remote is of no help now; going on without it.")
    return remote.brought(said)


def _but_advice(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: None if _ADVICE.match(line) else say(line)


def outcome(stage: str, code: int, said: Sequence[str], *, seconds: float, brought: str | None = None) -> Outcome:
    """What came of a stage.

    Args:
        stage: its name.
        code: exit code of DVC.
        said: the lines DVC and the stage said.
        seconds: how long it took.
        brought: where an earlier run was found before DVC was asked: "cache", "remote" or nowhere.
    """
    if code:
        exit_code, message = failure(code, said)
        named = message.startswith((f"{stage}: ", f"`{stage}"))
        return Outcome("Failed", message if named else f"{stage}: {message}", seconds, exit_code)
    ran = any(line.startswith(_RUNNING) for line in said)
    if any(_RESTORED in line for line in said) or (brought and not ran):
        return Outcome("Restored", f"From DVC's {brought or 'cache'}: an earlier run had the same inputs.", seconds)
    if not ran:
        return Outcome("Unchanged", "Nothing has changed.", seconds)
    reused = next((match for line in said if (match := _REUSED.search(line))), None)
    rows = (int(reused["rows"]), int(reused["reused"])) if reused else (None, None)
    return Outcome("Ran", "", seconds, 0, *rows)


def failure(code: int, said: Sequence[str]) -> tuple[int, str]:
    """Exit code and message of a stage that failed: its own last words, or DVC's where it never came to run."""
    place = next((number for number, line in enumerate(said) if _FAILED.search(line)), None)
    if place is None:
        words = [match["message"] for line in said if (match := _OF_DVC.match(line))] or list(said[-1:])
        return code, " ".join(words) or f"DVC ended with exit code {code} and said nothing."
    match = _FAILED.search(said[place])
    exit_code = int(match["exit_code"]) if match else code
    if exit_code in (-9, 137):
        return exit_code, "The stage was killed, as the system does when memory runs out. Rerun it with more to spare."
    words = [line for line in said[:place] if not line.startswith(("> ", _RUNNING))]
    return exit_code, words[-1] if words else f"The stage ended with exit code {exit_code} and said nothing."
