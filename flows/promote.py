"""Promote: a saved run's network into production if it is better, as a Prefect flow; roll back; show what holds.

`python -m flows.promote [RUN]`, `--rollback [VERSION]` and `--show`. What promotion does is in `flows/production.py`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.states import Completed
from tabulate import tabulate

from flows import (
    credentials,
    failure,
    git,
    notifications,
    processes,
    production,
    records,
    registry,
    server,
    workspace,
)
from flows.failure import failed
from transfer.runtime.errors import NetworkError

REFUSED = 1  # exit code of a promotion that was refused
_RETRIES = [5.0, 60.0]  # seconds to wait after a transient error
_COLUMNS = ("run", "champion", "accuracy", "champion_accuracy", "log_loss", "champion_log_loss", "difference_low",
            "difference_high", "test_photographs", "reason")  # fmt: skip


def _is_transient(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    return failure.exit_code(state) == NetworkError.exit_code


@task(
    name="promote",
    task_run_name="promote",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(_RETRIES),
    retry_delay_seconds=_RETRIES,
    retry_condition_fn=_is_transient,
)
def promote_run(run: str | None) -> State[Any]:
    """Promote a saved run's network, or refuse it; the name of the returned state tells which.

    Args:
        run: its name; None for the run that was saved last.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "flows.production", "--report", str(report), *([run] if run else [])]
        log = get_run_logger().info
        code, output = processes.run(command, workspace.environment(), secrets=credentials.read(), log=log)
        if code:
            return failed(f"promote: {output[-1] if output else f'it ended with exit code {code}'}", code)
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if content["record"]:
        publish(content)
    return Completed(name=content["name"], message=content["message"])


def publish(content: dict[str, Any]) -> None:
    """Publish a verdict: an artifact on the run's page, and an event to which automations can react.

    Args:
        content: the report of `flows.production`, with a record.
    """
    verdict, record = content["name"], content["record"]
    row = {"verdict": verdict, **{name: record[name] for name in _COLUMNS}}
    judged = f"judgement {content['judgements']} of this test split"
    create_table_artifact([row], key="promotion", description=f"{verdict}: {record['run']}, {judged}")
    subject = {
        "prefect.resource.id": f"{notifications.PROMOTION}.{record['run']}",
        "prefect.resource.name": record["run"],
    }
    emit_event(f"{notifications.PROMOTION}.{verdict.lower()}", subject, payload={**row, "message": content["message"]})


@flow(name="promote", persist_result=False)
def promote(run: str | None = None) -> State[Any]:
    """Put a saved run's network into production if it is better than the one there.

    Args:
        run: its name; None for the run that was saved last.
    """
    state: State[Any] = promote_run(run, return_state=True)
    if not state.is_completed():
        return failed(str(state.message), failure.exit_code(state))
    return Completed(name=state.name, message=state.message)


def table() -> str:
    """Return all that was in production as a table, the present first, and how often the test split has judged."""
    assignments = registry.read().assignments[::-1]
    if not assignments:
        return "No version is in production. `dogs-vs-cats promote` puts the first one there."
    until = ["now", *(f"{assignment.since:%Y-%m-%d %H:%M}" for assignment in assignments)]
    rows = [
        [assignment.version, f"{assignment.since:%Y-%m-%d %H:%M}", end, assignment.commit[:10], assignment.reason]
        for assignment, end in zip(assignments, until, strict=False)
    ]
    shown = tabulate(rows, ["version", "since", "until", "commit", "why"], tablefmt="plain", disable_numparse=True,
                     maxcolwidths=[None, None, None, None, 60])  # fmt: skip
    verdicts = records.add(records.of(assignments))
    if not verdicts:
        return shown
    judged = records.judgements(verdicts, verdicts[-1].test_split)
    return (
        f"{shown}\n\nIn production: {assignments[0].version}. The last verdict: {verdicts[-1].verdict}, "
        f"{verdicts[-1].run}. Its test split has judged {judged} of {len(verdicts)}; all are in {records.FILE}."
    )


def show() -> None:
    """Print what is in production, after fetching what other clones have promoted."""
    try:
        registry.fetch()
    except git.GitError as error:
        print(f"Other clones may have promoted meanwhile: {error}", file=sys.stderr)
    print(table())


def run(name: str | None) -> int:
    """Run the flow and print its message; return the exit code.

    Raises:
        StageError: there is no such run, which is found out before a server is started.
    """
    processes.interrupt_on_signals()
    with production.errors_of_tools():
        production.find(name)
    try:
        with server.connected():
            state: State[Any] = promote(name, return_state=True)
    except server.NotStartedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(state.message, file=sys.stderr)
    return REFUSED if state.name == "Refused" else failure.exit_code(state)


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.promote", description="Put a better network into production."
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a saved run, the last one by default; with --rollback, a version"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--rollback", action="store_true", help="put an earlier version into production")
    action.add_argument("--show", action="store_true", help="show what is and was in production")
    arguments = parser.parse_args()
    if not (arguments.rollback or arguments.show):
        return run(arguments.name)
    with production.errors_of_tools():
        if arguments.show:
            show()
        else:
            print(production.roll_back(arguments.name, production.log_line))
    return 0


if __name__ == "__main__":
    processes.exit_with(main)
