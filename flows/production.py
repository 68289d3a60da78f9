"""Production: judge a saved run's network against the one in production, put the better one there, or go back.

`python -m flows.production [RUN] --report FILE` does that as a process; its report is JSON. Its steps are in
an order in which it can be killed anywhere: the judgement, the data's way to the remote, the tags, the record.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dvc.exceptions import DvcException

from flows import experiments, models, processes, records, registry, remote, workspace
from flows.git import GitError
from flows.records import Record
from transfer.prediction import versions
from transfer.prediction.versions import Registry
from transfer.runtime import files
from transfer.runtime.errors import DataError, LockedError, ParamsError, StageError

SCORES = (
    "accuracy",
    "champion_accuracy",
    "log_loss",
    "champion_log_loss",
    "test_photographs",
)  # of a verdict and of a record
_ATTEMPTS = 5  # decisions, while others promote


@dataclass(frozen=True)
class Result:
    """What came of a promotion; `record` is None if the network is in production already.

    `judgements` is the number of verdicts that the test split has given so far.
    """

    name: Literal["Promoted", "Refused", "Unchanged"]
    message: str
    record: Record | None = None
    judgements: int = 0


def promote(run: str | None, log: Callable[[str], None]) -> Result:
    """Judge a saved run's network, and put it into production if it is better; decide again if another was quicker.

    Args:
        run: the saved run's name; None for the one that was saved last.
        log: called with messages on the way.

    Raises:
        StageError: a file is missing or damaged, there is no saved run, or others promote all the time.
        GitError: Git or its remote failed.
        DvcException: DVC's remote failed.
    """
    saved = find(run)
    for _ in range(_ATTEMPTS):
        registry.fetch()
        share(log)
        state = registry.read()
        records.add(records.of(state.assignments))
        if is_in_production(saved, state):
            return Result("Unchanged", f"The network of {saved.name} is in production already.")
        record = decide(saved, state)
        if record.verdict == "refused":
            return _result("Refused", record)
        push_data(saved.commit, log)
        try:
            registry.promote(state, saved.commit, reason=record.reason, details=record.details)
        except registry.OutdatedError:
            log("Another network was put into production meanwhile; deciding again.")
            continue
        return _result("Promoted", record)
    raise LockedError(f"Others have promoted {_ATTEMPTS} networks meanwhile. Run again when they are done.")


def find(run: str | None) -> experiments.Saved:
    """Return a saved run.

    Raises:
        ParamsError: nothing can be saved here, as without Git, or Git has a remote and DVC has none.
        DataError: there is no such run.
    """
    if obstacle := experiments.obstacle():
        raise ParamsError(f"A promotion needs a saved run; {obstacle}")
    remote.check_shared(experiments.git_remote())
    saved = experiments.find(run) if run else experiments.latest()
    if saved is None:
        wanted = f"a saved run of this name. Received: {run}" if run else "a saved run. Received: none"
        raise DataError(
            f"A promotion needs {wanted}. Run `dogs-vs-cats run --flow`, which saves its results; `dvc exp list` "
            "has the names."
        )
    return saved


def share(log: Callable[[str], None]) -> None:
    """Push the versions that were registered while Git had no remote, each after its data.

    A version whose data is lost stays here, and a message says so.

    Raises:
        GitError: Git's remote refuses or cannot be reached.
    """
    tags = registry.unshared()
    for commit in sorted(set(tags.values())):
        try:
            push_data(commit, log)
        except DvcException as error:
            log(f"The version of commit {commit[:10]} stays in this clone: {remote.one_line(error)}")
            tags = {name: tagged for name, tagged in tags.items() if tagged != commit}
    registry.share(tags)


def push_data(commit: str, log: Callable[[str], None]) -> None:
    """Push the data of a commit to DVC's remote, and check that the files of its network are there.

    Raises:
        DvcException: the remote refuses, cannot be reached, or lacks a file.
    """
    remote.push_revision(commit, models.needed(commit), log)


def is_in_production(saved: experiments.Saved, state: Registry) -> bool:
    """Return whether a run's network is the one in production, byte for byte."""
    if state.production is None:
        return False
    folders = (models.fetch(commit) for commit in (saved.commit, state.production.commit))
    first, second = (files.sha256(folder / versions.NETWORK) for folder in folders)
    return first == second


def decide(saved: experiments.Saved, state: Registry) -> Record:
    """Judge a run's network against the one in production; return the verdict."""
    champion = state.production
    candidate = models.fetch(saved.commit)
    verdict = judge(candidate, models.fetch(champion.commit) if champion else None)
    numbers = {name: records.number(verdict[name]) for name in SCORES}
    return Record(
        time=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        verdict="promoted" if verdict["promoted"] else "refused",
        run=saved.name,
        commit=saved.commit,
        version=registry.version_of(state, saved.commit) if verdict["promoted"] else "",
        champion=champion.version if champion else "",
        difference_low=records.number(verdict["low"]),
        difference_high=records.number(verdict["high"]),
        test_split=verdict["test_split"],
        reason=verdict["reason"],
        **numbers,
    )


def judge(candidate: Path, champion: Path | None) -> dict[str, Any]:
    """Score the networks of two folders in a child process, which imports TensorFlow; return its verdict.

    Raises:
        StageError: the child failed; the message and the exit code are its own.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "verdict.json"
        command = [sys.executable, "-m", "transfer.evaluation.judgement", str(candidate), "--verdict", str(file)]
        command += ["--champion", str(champion)] if champion else []
        done = subprocess.run(  # noqa: S603 - no shell, and the project's own module
            command, env=workspace.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise _error(done.returncode)(last)
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def roll_back(version: str | None, log: Callable[[str], None]) -> str:
    """Put an earlier version into production; return a sentence.

    Args:
        version: its name; None for the one before.
        log: called with messages on the way.

    Raises:
        DataError: there is no such version, or neither DVC's cache nor its remote has its files.
        LockedError: another process was quicker.
        GitError: Git or its remote failed.
    """
    registry.fetch()
    share(log)
    state = registry.read()
    records.add(records.of(state.assignments))
    chosen = registry.target(state, version)
    models.fetch(state.versions[chosen])
    left = state.production.version if state.production else "none"
    reason = f"Rolled back from {left} to {chosen}."
    try:
        registry.promote(state, state.versions[chosen], reason=reason)
    except registry.OutdatedError:
        raise LockedError(
            "Another version was put into production meanwhile. See `promote --show`, and roll back again if needed."
        ) from None
    return reason


def _result(name: Literal["Promoted", "Refused"], record: Record) -> Result:
    judgements = records.judgements(records.add([record]), record.test_split)
    version = f" as {record.version}" if record.version else ""
    times = "once" if judgements == 1 else f"{judgements} times"
    message = f"{name}{version}: {record.run}. {record.reason} This test split has judged {times}."
    return Result(name, message, record, judgements)


@contextmanager
def errors_of_tools() -> Iterator[None]:
    """Raise a `StageError` with the messages of any other error in the block: remotes have errors of their own."""
    try:
        yield
    except StageError:
        raise
    except (GitError, DvcException, OSError) as error:
        raise StageError(remote.one_line(error)) from error


def _error(exit_code: int) -> type[StageError]:
    return next((kind for kind in StageError.__subclasses__() if kind.exit_code == exit_code), StageError)


def log_line(line: str) -> None:
    """Print a message on the way."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Promote the run that the command line names, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m flows.production", description="Promote a saved run's network.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="its name; the one saved last by default")
    parser.add_argument("--report", type=Path, required=True, metavar="FILE", help="the JSON file to write")
    options = parser.parse_args()
    with errors_of_tools():
        result = promote(options.run, log_line)
    record = result.record._asdict() if result.record else None
    files.write_json(options.report, {**asdict(result), "record": record})


if __name__ == "__main__":
    processes.exit_with(main)
