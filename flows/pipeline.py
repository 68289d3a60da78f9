"""The pipeline as a Prefect flow: a task run for each of DVC's stages, then the results saved as an experiment.

`python -m flows.pipeline [STAGE ...] [--force] [--push] [--promote]` runs it without a deployment.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dvc.exceptions import DvcException
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.utilities.annotations import allow_failure, quote

from flows import (
    credentials,
    experiments,
    failure,
    git,
    graph,
    parameters,
    preconditions,
    processes,
    reproduction,
    server,
    summary,
    workspace,
)
from flows.failure import failed
from flows.promote import promote_run
from flows.reproduction import Outcome
from transfer.runtime import progress
from transfer.runtime.errors import StageError

PUSH_RETRIES = [5.0, 60.0]  # seconds to wait after a push that failed
RETRIES = [5.0, 60.0, 300.0]  # seconds to wait after a transient error; a stage has retried for a while by itself
REFUSED = 2  # exit code of a run with wrong arguments


def is_transient(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed stage is worth a retry, by its exit code."""
    return outcome_of(state).is_transient


@flow(name="pipeline", persist_result=False)
def pipeline(
    stages: tuple[graph.Stage, ...] = (),
    force: bool = False,  # noqa: FBT001, FBT002
    push: bool = False,  # noqa: FBT001, FBT002
    promote: bool = False,  # noqa: FBT001, FBT002
) -> State[Any]:
    """Bring stages up to date, each after those it needs, and save the results as an experiment.

    Args:
        stages: names of stages; they and the stages they need are brought up to date. All, if none is named.
        force: run the named stages (all, if none is named) even if nothing has changed.
        push: send data, models and the experiment to the remotes.
        promote: put the network into production if it is better than the one there.
    """
    log = get_run_logger().warning
    try:
        preconditions.check()
        plan = graph.plan(graph.read(), stages)
        remote = graph.has_remote()
        if push and not remote:
            return failed("`push` needs a remote. Run `dvc remote add -d store ADDRESS` once.", REFUSED)
        with workspace.exclusive(f"flow run {flow_run.get_name()}", log):
            for orphan in workspace.terminate_orphans():
                log(f"Terminated a process that a killed run had left: {orphan}.")
            workspace.remove_dead_holders()
            parameters.check()  # a stage would find out only after DVC has removed its outputs
            forced = set(stages or plan) if force else set()
            return run(plan, forced=forced, pull=remote, push=push, promote=promote)
    except graph.UnknownStageError as error:
        return failed(str(error), REFUSED)
    except StageError as error:
        return failed(str(error), error.exit_code)
    except (workspace.WorkspaceBusyError, git.GitError, DvcException) as error:
        return failed(str(error), 1)


def run(plan: graph.Graph, *, forced: set[str], pull: bool, push: bool, promote: bool) -> State[Any]:
    """Reproduce every stage of a plan, save, push and promote the results; return the flow run's state."""
    states = reproduce_all(plan, forced=forced, pull=pull)
    outcomes = {stage: outcome_of(state) for stage, state in states.items()}
    show(summary.stages(outcomes), key="stages", description=f"Stages of {flow_run.get_name()}")
    if stages_failed := reproduction.failure(outcomes.values()):
        return failed(*stages_failed)
    show_results(outcomes)
    last = set(plan) - {needed for upstream in plan.values() for needed in upstream}
    final = [save(list(plan), wait_for=[states[stage] for stage in plan if stage in last], return_state=True)]
    saved: Any = final[0].result(raise_on_failure=False) if final[0].is_completed() else None
    experiment = saved.unwrap() if isinstance(saved, quote) else None
    if push and final[-1].is_completed():
        final.append(push_to_remotes(experiment, wait_for=final[:1], return_state=True))
    if promote and experiment and final[-1].is_completed():
        final.append(promote_run(experiment.name, wait_for=final[-1:], return_state=True))
    if not final[-1].is_completed():
        return failed(str(final[-1].message), 1)
    messages = [f"{summary.counted(outcomes.values())}.", *(str(state.message) for state in final)]
    return Completed(message=" ".join(messages))


def reproduce_all(plan: graph.Graph, *, forced: set[str], pull: bool) -> dict[str, State[Any]]:
    """Reproduce the stages in order, but none that needs a failed one; return the states of their task runs."""
    log = get_run_logger().warning
    changes = graph.changes(plan, log)
    states: dict[str, State[Any]] = {}
    for stage, upstream in plan.items():
        if any(states[needed].name in ("Ran", "Restored") for needed in upstream):
            changes |= graph.changes([stage], log)
        reproduce_stage = reproduce.with_options(name=stage, task_run_name=stage)
        states[stage] = reproduce_stage(
            stage,
            why=changes.get(stage, ""),
            force=stage in forced,
            pull=pull,
            blocked=not all(states[needed].is_completed() for needed in upstream),
            wait_for=[allow_failure(states[needed]) for needed in upstream if not states[needed].is_cancelled()],
            return_state=True,
        )
    return states


def outcome_of(state: State[Any]) -> Outcome:
    """Return the outcome of a stage from the state of its task run.

    States carry it quoted: otherwise Prefect draws an edge between two task runs that have the same text in their
    results.
    """
    result = state.result(raise_on_failure=False)
    return result.unwrap() if isinstance(result, quote) else Outcome("Failed", str(state.message), exit_code=1)


@task(
    cache_policy=NO_CACHE,  # DVC decides which stages are stale
    persist_result=False,
    retries=len(RETRIES),
    retry_delay_seconds=RETRIES,
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
)
def reproduce(stage: str, *, why: str, force: bool, pull: bool, blocked: bool) -> State[Any]:
    """Bring one stage up to date, unless a failed one blocks it; the name of the returned state tells what happened."""
    if blocked:
        outcome = Outcome("NotReady", "A stage that it needs has failed.")
        return Cancelled(name=outcome.name, message=outcome.message, data=quote(outcome))
    if not (why or force):
        return Completed(name="Unchanged", data=quote(Outcome("Unchanged", "Nothing has changed.")))
    logger = get_run_logger()
    logger.info("%s", why or "Nothing has changed; forced.")
    log = with_progress(stage, logger.info)
    outcome = reproduction.reproduce(stage, force=force, pull=pull, secrets=credentials.read(), log=log)
    if outcome.name == "Ran":
        outcome = replace(outcome, message=why or "forced")
    return (Failed if outcome.name == "Failed" else Completed)(
        name=outcome.name, message=outcome.message, data=quote(outcome)
    )


def with_progress(stage: str, log: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that logs a line of a stage, and shows the stage's progress as an artifact."""
    artifacts: list[Any] = []

    def log_with_progress(line: str) -> None:
        log(line)
        percentage = progress.parse_percentage(line)
        if percentage is None:
            return
        with suppress(Exception):  # the stage goes on while the server does not answer
            if artifacts:
                update_progress_artifact(artifacts[0], progress=float(percentage))
            else:
                key, description = stage.replace("_", "-"), f"Progress of {stage}"
                artifacts.append(create_progress_artifact(float(percentage), key=key, description=description))

    return log_with_progress


def show_results(outcomes: Mapping[str, Outcome]) -> None:
    """Create artifacts: scores and parameters compared with the run saved before, learning curves, paths."""
    commit = experiments.baseline()
    if commit:
        before = experiments.latest() or experiments.Saved("the last commit", commit)
        metrics = experiments.differences("metrics", before.commit, everything=True)
        params = experiments.differences("params", before.commit, everything=False)
        show(summary.scores(metrics), key="scores", description=f"Scores, compared with those of {before.name}")
        show(summary.params(params), key="params", description=f"Parameters that differ from {before.name}")
    evaluated = outcomes.get("evaluate")
    if evaluated and evaluated.name != "Unchanged" and (curves := summary.learning_curves()):
        create_markdown_artifact(curves, key="learning-curves", description="Learning curves")
    if links := summary.results():
        create_markdown_artifact(links, key="results", description="Paths of the results")


def show(rows: list[summary.Row], *, key: str, description: str) -> None:
    """Create an artifact of a table, unless the table is empty."""
    if rows:
        create_table_artifact(rows, key=key, description=description)


@task(name="save", task_run_name="save", cache_policy=NO_CACHE, persist_result=False)
def save(stages: list[str]) -> State[Any]:
    """Save the workspace as an experiment with the flow run's name."""
    if obstacle := experiments.obstacle():
        get_run_logger().warning(obstacle)
        return Completed(name="Skipped", message=f"Not saved: {obstacle}")
    if changed := graph.changes(stages, get_run_logger().warning):
        reasons = ", ".join(f"{stage} ({why})" for stage, why in changed.items())
        return Completed(name="Skipped", message=f"Not saved, as the workspace changed meanwhile: {reasons}.")
    saved = experiments.save(str(flow_run.get_name()), graph.uncached_outputs(), run=str(flow_run.get_id()))
    messages = [f"Saved; `dvc exp apply {saved.name}` restores it."]
    if files := experiments.uncommitted():
        messages.append(f"It contains changes that are not committed: {', '.join(files)}.")
    if files := experiments.untracked(graph.sources()):
        messages.append(f"It lacks files that Git does not track: {', '.join(files)}.")
        get_run_logger().warning(messages[-1])
    return Completed(name="Saved", message=" ".join(messages), data=quote(saved))


@task(
    name="push",
    task_run_name="push",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PUSH_RETRIES),
    retry_delay_seconds=PUSH_RETRIES,
    retry_jitter_factor=0.5,
)
def push_to_remotes(saved: experiments.Saved | None) -> State[Any]:
    """Send data, models and earlier runs to DVC's remote, as far as it lacks them, and the experiment to Git's."""
    command = [sys.executable, "-m", "flows.remote", "push"]
    if saved and (git_remote := experiments.git_remote()):
        command += ["--experiment", saved.name, git_remote]
    log = get_run_logger().info
    code, output = processes.run(command, workspace.environment(), secrets=credentials.read(), log=log)
    if code:
        return Failed(message=f"push: {output[-1] if output else f'it ended with exit code {code}'}")
    return Completed(name="Pushed", message="Pushed.")


def main() -> int:
    """Run the pipeline from a command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run stages as a Prefect flow.")
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="brought up to date with the stages it needs; all, if none is named"
    )
    parser.add_argument("--force", action="store_true", help="run the named stages even if nothing has changed")
    parser.add_argument("--push", action="store_true", help="send data, models and the experiment to the remotes")
    parser.add_argument("--promote", action="store_true", help="put the network into production if it is better")
    arguments = parser.parse_args()
    try:
        preconditions.check()
        graph.plan(graph.read(), arguments.stages)
    except (graph.UnknownStageError, DvcException, StageError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, StageError) else REFUSED
    processes.interrupt_on_signals()
    try:
        with server.connected():
            return _run(vars(arguments))
    except server.NotStartedError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _run(parameters: dict[str, Any]) -> int:
    """Run the flow with these parameters and print its message; return the exit code."""
    state = pipeline(**parameters, return_state=True)
    print(state.message, file=sys.stderr)
    return failure.exit_code(state)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
