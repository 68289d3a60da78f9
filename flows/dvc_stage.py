"""DVC stage: bring one stage up to date through DVC's Python API, and report the outcome as one line of JSON.

`python -m flows.dvc_stage STAGE [--pull] [--force] [--upstream]` does that as a process of its own. Its output is the
stage's output. The report goes to the file descriptor that `--report` names, to standard output by default. Its fields
are those of `Outcome`, and `stage`, the stage that was run last. The message of a stage that ran and failed is empty:
it is the last line of the stage's output.
"""

import argparse
import json
import logging
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import dvc.stage.run
from dvc.exceptions import DvcException, ReproductionError
from dvc.lock import LockError
from dvc.logger import set_loggers_level
from dvc.repo import Repo, lock_repo
from dvc.stage.cache import RunCacheNotFoundError, StageCache
from dvc.stage.decorators import rwlocked
from dvc.stage.exceptions import StageCmdFailedError

from flows import remote, workspace
from flows.reproduction import DVC_FAILED, Outcome, header
from transfer.runtime import paths

_LONGEST = 2000  # characters of a message, so that a report fits into the buffer of a pipe


class StageFailed(StageCmdFailedError):  # type: ignore[misc] # DVC has no types
    """DVC's error for a failed command, with the exit code, which DVC keeps only within its text."""

    def __init__(self, cmd: str, status: int) -> None:
        super().__init__(cmd, status)
        self.exit_code = status


class RunCache(StageCache):  # type: ignore[misc] # DVC has no types
    """DVC's cache of earlier runs; it records whether a stage is restored from it, or else is about to run."""

    restored = False
    running = ""

    def restore(self, stage: Any, *arguments: Any, **options: Any) -> None:
        """Restore the outputs of a stage; DVC calls this before it runs a stage, and runs it if this raises."""
        try:
            super().restore(stage, *arguments, **options)
        except RunCacheNotFoundError:
            self.announce(stage.addressing)
            raise
        self.restored = True

    def announce(self, stage: str) -> None:
        """Print the line that precedes the output of a stage."""
        self.running = stage
        log(header(stage))


def reproduce(stage: str, *, force: bool, pull: bool, upstream: bool) -> tuple[Outcome, str]:
    """Bring a stage up to date; wait while another process of DVC works on its files.

    Args:
        stage: its name in dvc.yaml.
        force: run it even if nothing has changed.
        pull: restore an earlier run from DVC's remote; if that cannot be reached, go on without it.
        upstream: first bring the stages up to date that this one needs.

    Returns:
        The outcome, without seconds, and the stage that was run last; `stage` if none was.
    """
    results: list[tuple[Outcome, str]] = []

    def attempt() -> bool:
        with suppress(LockError):
            results.append(_reproduce(stage, force=force, pull=pull, upstream=upstream))
        return bool(results)

    try:
        workspace.wait_until_free(attempt, workspace.dvc_holders, log)
    except workspace.WorkspaceBusyError as error:
        return Outcome("Failed", str(error), exit_code=1), stage
    return results[0]


def _reproduce(stage: str, *, force: bool, pull: bool, upstream: bool) -> tuple[Outcome, str]:
    """Bring a stage up to date.

    Raises:
        LockError: another process of DVC works on its files.
    """
    cache = None
    try:
        _counts(stage).unlink(missing_ok=True)
        place = _pulled(stage) if pull and not force else None
        # DVC needs its lock again at the end of a stage: without waiting for it, the stage would have run in vain
        with Repo(os.curdir, _wait_for_lock=True) as repo, lock_repo(repo):
            cache = repo.stage_cache = RunCache(repo)
            for target in repo.stage.collect(stage):
                _check_free(target)
            if force:
                cache.announce(stage)
            changed = repo.reproduce(stage, single_item=not upstream, force=force)
    except Exception as error:  # noqa: BLE001 - DVC raises errors of many libraries
        return _failure(error), cache.running if cache and cache.running else stage
    if cache.restored or (place and not changed):
        place = place or "cache"
        return Outcome("Restored", f"From DVC's {place}: an earlier run had the same inputs."), stage
    if not changed:
        return Outcome("Unchanged", "Nothing has changed."), stage
    return Outcome("Ran", "", **_rows(stage)), stage


def _pulled(stage: str) -> Literal["cache", "remote"] | None:
    try:
        return remote.pull(stage)
    except LockError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of remote has errors of its own
        log(f"{remote.one_line(error)}\nDVC's remote cannot be used now; going on without it.")
        return None


@rwlocked(read=["deps"], write=["outs"])  # type: ignore[untyped-decorator] # DVC has no types
def _check_free(stage: Any) -> None:
    """Raise LockError if another process of DVC works on a stage's files.

    DVC itself checks that only after it has removed the outputs.
    """


def _failure(error: Exception) -> Outcome:
    """Return the outcome of an attempt that raised an error.

    Raises:
        LockError: another process of DVC works on the stage's files.
    """
    cause = (isinstance(error, ReproductionError) and error.__cause__) or error
    if isinstance(cause, LockError):
        raise cause
    if isinstance(cause, StageFailed):
        return Outcome("Failed", "", exit_code=cause.exit_code)
    if not isinstance(cause, DvcException | OSError):
        traceback.print_exception(cause)
    return Outcome("Failed", remote.one_line(cause)[:_LONGEST], exit_code=DVC_FAILED)


def _rows(stage: str) -> dict[str, int]:
    """Return the number of `rows` of a stage that has run, and how many it `reused`; empty if it counts none."""
    try:
        counts = json.loads(_counts(stage).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {"rows": counts["rows"], "reused": counts["reused"]}


def _counts(stage: str) -> Path:
    """Return the path of the file in which a stage counts its rows."""
    return paths.scratch(stage, "rows.json")


def log(line: str) -> None:
    """Print a line at once, so that lines of this process and of the stage keep their order."""
    print(line, flush=True)


def main() -> int:
    """Bring the stage up to date that the command line names, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m flows.dvc_stage", description="Bring one stage up to date.")
    parser.add_argument("stage", metavar="STAGE", help="its name in dvc.yaml")
    parser.add_argument("--force", action="store_true", help="run it even if nothing has changed")
    parser.add_argument("--pull", action="store_true", help="restore an earlier run from DVC's remote")
    parser.add_argument("--upstream", action="store_true", help="with the stages that it needs")
    parser.add_argument("--report", type=int, default=1, metavar="FD", help="file descriptor for the report")
    arguments = parser.parse_args()
    dvc.stage.run.StageCmdFailedError = StageFailed
    with set_loggers_level(logging.WARNING):
        outcome, stage = reproduce(
            arguments.stage, force=arguments.force, pull=arguments.pull, upstream=arguments.upstream
        )
    report = json.dumps({**asdict(outcome), "stage": stage}, ensure_ascii=False)
    os.write(arguments.report, f"{report}\n".encode())
    return int(outcome.name == "Failed")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
