"""The pipeline as a Prefect flow: DVC's stages, a task run each, watched, saved and shared.

`python -m flows.pipeline [STAGE ...] [--force] [--push]` runs it without a deployment.
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
from prefect.states import Completed, Failed
from prefect.utilities.annotations import quote

from flows import credentials, experiments, graph, processes, reproduction, server, summary, workspace
from flows.reproduction import Outcome
from transfer.runtime import progress

PUSHES = [5.0, 60.0]  # seconds to wait when nothing could be pushed
RETRIES = [5.0, 60.0, 300.0]  # seconds to wait after trouble that may pass; a stage has tried for a while by itself
REFUSED = 2  # exit code of a run that was asked for what cannot be


def may_pass(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed stage is worth another try: its exit code says so."""
    return outcome_of(state).passing


@flow(name="pipeline", persist_result=False)
def pipeline(stages: tuple[str, ...] = (), force: bool = False, push: bool = False) -> State[Any]:  # noqa: FBT001, FBT002
    """Bring the stages up to date, each after those it needs, and keep the results as an experiment.

    Args:
        stages: names of stages; they and what they need are brought up to date. All, if none is named.
        force: run the named stages (all, if none is named) even if nothing has changed.
        push: send data, models and the experiment to the remotes.
    """
    say = get_run_logger().warning
    try:
        plan = graph.plan(graph.read(), stages)
        remote = graph.has_remote()
        if push and not remote:
            return Failed(message="`push` needs a remote. Run `dvc remote add -d store ADDRESS` once.", data=REFUSED)
        with workspace.held(f"flow run {flow_run.get_name()}", say):
            for leftover in workspace.end_leftovers():
                say(f"Ended what a killed run had left running: {leftover}.")
            workspace.forget_dead_holders()
            forced = set(stages or plan) if force else set()
            return run(plan, forced=forced, pull=remote, push=push)
    except graph.UnknownStageError as error:
        return Failed(message=str(error), data=REFUSED)
    except (workspace.BusyError, experiments.GitError, DvcException) as error:
        return Failed(message=str(error), data=1)


def run(plan: graph.Graph, *, forced: set[str], pull: bool, push: bool) -> State[Any]:
    """Reproduce every stage of a plan; what came of it all."""
    states = reproduce_all(plan, forced=forced, pull=pull)
    outcomes = {stage: outcome_of(state) for stage, state in states.items()}
    show(summary.stages(outcomes), key="stages", description=f"Stages of {flow_run.get_name()}")
    failed = [outcome for outcome in outcomes.values() if outcome.name == "Failed"]
    if failed:
        return Failed(message=" ".join(outcome.message for outcome in failed), data=failed[0].exit_code)
    show_results(outcomes)
    needed = {each for upstream in plan.values() for each in upstream}
    last = [state for stage, state in states.items() if stage not in needed]
    kept = save(list(plan), wait_for=last, return_state=True)
    done = [kept]
    if push and kept.is_completed():
        saved: Any = kept.result()
        done.append(push_to_remotes(saved.unwrap() if saved else None, wait_for=[kept], return_state=True))
    if not done[-1].is_completed():
        return Failed(message=done[-1].message, data=1)
    return Completed(
        message=" ".join([f"{summary.counted(outcomes.values())}.", *(str(state.message) for state in done)])
    )


def reproduce_all(plan: graph.Graph, *, forced: set[str], pull: bool) -> dict[str, State[Any]]:
    """Reproduce the stages in order; those behind a failed one are not begun."""
    say = get_run_logger().warning
    changes = graph.changes(plan, say)
    states: dict[str, State[Any]] = {}
    for stage, upstream in plan.items():
        if any(states[needed].name in ("Ran", "Restored") for needed in upstream):
            changes |= graph.changes([stage], say)
        reproduce_stage = reproduce.with_options(name=stage, task_run_name=stage)
        states[stage] = reproduce_stage(
            stage,
            why=changes.get(stage, ""),
            force=stage in forced,
            pull=pull,
            wait_for=[states[needed] for needed in upstream],
            return_state=True,
        )
    return states


def outcome_of(state: State[Any]) -> Outcome:
    """What came of a stage whose task run ended in this state, or never began.

    States carry it quoted: else Prefect draws an edge between any two task runs in whose results the same text is.
    """
    if not state.is_final():
        return Outcome("NotReady", "A stage that it needs has failed.")
    found = state.result(raise_on_failure=False)
    return found.unwrap() if isinstance(found, quote) else Outcome("Failed", str(state.message), exit_code=1)


@task(
    cache_policy=NO_CACHE,  # DVC knows what is stale
    persist_result=False,
    retries=len(RETRIES),
    retry_delay_seconds=RETRIES,
    retry_jitter_factor=0.5,
    retry_condition_fn=may_pass,
)
def reproduce(stage: str, *, why: str, force: bool, pull: bool) -> State[Any]:
    """Bring one stage up to date, in a state that is named for what happened."""
    if not (why or force):
        return Completed(name="Unchanged", data=quote(Outcome("Unchanged", "Nothing has changed.")))
    logger = get_run_logger()
    logger.info("%s", why or "Nothing has changed; forced.")
    say = with_progress(stage, logger.info)
    try:
        outcome = reproduction.reproduce(stage, force=force, pull=pull, secrets=credentials.read(), say=say)
    except workspace.BusyError as error:
        outcome = Outcome("Failed", str(error), exit_code=1)
    if outcome.name == "Ran":
        outcome = replace(outcome, message=why or "forced")
    return (Failed if outcome.name == "Failed" else Completed)(
        name=outcome.name, message=outcome.message, data=quote(outcome)
    )


def with_progress(stage: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """Besides saying its lines, show a stage's progress as an artifact."""
    shown: list[Any] = []

    def saying(line: str) -> None:
        say(line)
        done = progress.parse_percentage(line)
        if done is None:
            return
        with suppress(Exception):  # a server that does not answer for a moment must not cost a stage
            if shown:
                update_progress_artifact(shown[0], progress=float(done))
            else:
                key, description = stage.replace("_", "-"), f"Progress of {stage}"
                shown.append(create_progress_artifact(float(done), key=key, description=description))

    return saying


def show_results(outcomes: Mapping[str, Outcome]) -> None:
    """Artifacts of what the run has made: scores and params beside the last saved run's, curves, places."""
    commit = experiments.baseline()
    if commit:
        before = experiments.latest() or experiments.Saved("the last commit", commit)
        metrics = experiments.differences("metrics", before.commit, everything=True)
        params = experiments.differences("params", before.commit, everything=False)
        show(summary.scores(metrics), key="scores", description=f"Scores, beside those of {before.name}")
        show(summary.params(params), key="params", description=f"Params that differ from {before.name}")
    evaluated = outcomes.get("evaluate")
    if evaluated and evaluated.name != "Unchanged" and (curves := summary.learning_curves()):
        create_markdown_artifact(curves, key="learning-curves", description="Learning curves")
    if places := summary.results():
        create_markdown_artifact(places, key="results", description="Where the results lie")


def show(rows: list[summary.Row], *, key: str, description: str) -> None:
    """A table as an artifact, if it has rows."""
    if rows:
        create_table_artifact(rows, key=key, description=description)


@task(name="save", task_run_name="save", cache_policy=NO_CACHE, persist_result=False)
def save(stages: list[str]) -> State[Any]:
    """Keep the workspace as an experiment under the flow run's name."""
    if experiments.baseline() is None:
        return Completed(name="Skipped", message="Not saved: experiments need a Git repository with a commit.")
    if changed := graph.changes(stages, get_run_logger().warning):
        found = ", ".join(f"{stage} ({why})" for stage, why in changed.items())
        return Completed(name="Skipped", message=f"Not saved, as the workspace changed meanwhile: {found}.")
    saved = experiments.save(str(flow_run.get_name()), graph.uncached_outputs(), run=str(flow_run.get_id()))
    messages = [f"Saved; `dvc exp apply {saved.name}` has it back."]
    if files := experiments.uncommitted():
        messages.append(f"It holds changes that are not committed: {', '.join(files)}.")
    if files := experiments.unknown(graph.sources()):
        messages.append(f"Git does not know, so it does not hold: {', '.join(files)}.")
        get_run_logger().warning(messages[-1])
    return Completed(name="Saved", message=" ".join(messages), data=quote(saved))


@task(
    name="push",
    task_run_name="push",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(PUSHES),
    retry_delay_seconds=PUSHES,
    retry_jitter_factor=0.5,
)
def push_to_remotes(saved: experiments.Saved | None) -> State[Any]:
    """Send what the remotes do not have: to DVC's data, models and what runs came to, to Git's the experiment."""
    logger = get_run_logger()
    commands = [["flows.remote", "push"]]
    if saved and (remote := experiments.git_remote()):
        commands.append(["dvc", "exp", "push", "--no-cache", remote, saved.name])
    for module in commands:
        command = [sys.executable, "-m", *module]
        code, said = processes.run(command, workspace.environment(), secrets=credentials.read(), say=logger.info)
        if code:
            return Failed(message=f"push: {reproduction.failure(code, said)[1]}")
    return Completed(name="Pushed", message="Pushed.")


def main() -> int:
    """Run the pipeline for somebody at a terminal; the exit code tells what came of it."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run stages as a Prefect flow.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="with those it needs; all, if none is named")
    parser.add_argument("--force", action="store_true", help="run the named stages even if nothing has changed")
    parser.add_argument("--push", action="store_true", help="send data, models and the experiment to the remotes")
    given = parser.parse_args()
    try:
        graph.plan(graph.read(), given.stages)
    except (graph.UnknownStageError, DvcException) as error:
        print(error, file=sys.stderr)
        return REFUSED
    processes.interruptible()
    try:
        with server.connected():
            return _run_and_say(tuple(given.stages), force=given.force, push=given.push)
    except server.NotStartedError as error:
        print(error, file=sys.stderr)
        return 1


def _run_and_say(stages: tuple[str, ...], *, force: bool, push: bool) -> int:
    state = pipeline(stages=stages, force=force, push=push, return_state=True)
    print(state.message, file=sys.stderr)
    if state.is_completed():
        return 0
    code = state.result(raise_on_failure=False)
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
