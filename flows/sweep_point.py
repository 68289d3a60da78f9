"""Sweep point: train a point of a sweep with one seed in the clone of a Prefect worker, and share it as an experiment.

Its data goes to DVC's remote, then the experiment to Git's, from where `flows.sweep_workers` fetches it. Earlier stages
are restored from DVC's remote as far as it has them.
"""

import contextlib
import os
from typing import Any, Literal

from dvc.exceptions import DvcException
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows import experiments, git, graph, reproduction, sandbox, trials, workspace
from flows.failure import failed
from flows.pipeline import outcome_of, push_to_remotes, reproduce_all
from transfer.runtime import disk, paths
from transfer.runtime.errors import ParamsError, StageError
from transfer.runtime.files import write_text

FLOW = "sweep-point"


@flow(name=FLOW, persist_result=False)
def sweep_point(experiment: str, stage: Literal["train_head", "fine_tune"], params: str, baseline: str) -> State[Any]:
    """Train a point of a sweep and share it, unless the remote of Git has its experiment.

    Args:
        experiment: the name of its experiment.
        stage: the stage whose scores are compared.
        params: the content of params.yaml.
        baseline: the commit of the code.
    """
    log = get_run_logger().warning
    try:
        check_clone(baseline)
        remote = git_remote()
        found = experiments.fetch([experiment], remote, baseline).get(experiment)
        if found and trials.saved_scores(found, stage, params):
            return Completed(name="Unchanged", message=f"`{experiment}` exists.")
        name = f"flow run {flow_run.get_name()}"
        with disk.space_for({trials.WORKSPACE: 0}), workspace.exclusive(name, log, workspace=trials.WORKSPACE):
            trials.prepare()
            message, code = train(stage, params)
            if code:
                return failed(message, code)
            experiments.send(experiments.save(experiment, trials.outputs(), folder=trials.WORKSPACE), remote, baseline)
        return Completed(name="Saved", message=f"Saved as `{experiment}`: {message}")
    except StageError as error:
        return failed(str(error), error.exit_code)
    except (workspace.WorkspaceBusyError, git.GitError, DvcException) as error:
        return failed(str(error), 1)


def check_clone(baseline: str) -> None:
    """Check that the clone has the code of a commit.

    Raises:
        ParamsError: it is at another commit, or has uncommitted changes of the code.
    """
    if (head := experiments.baseline()) != baseline:
        received = head[:10] if head else "none"
        raise ParamsError(
            f"The clone of a worker must be at the sweep's commit, {baseline[:10]}. Received: {received}, in "
            f"{os.path.realpath(os.curdir)}. Push the commit, and run `git pull` there."
        )
    if changed := experiments.changed(sandbox.COPIED):
        raise ParamsError(
            f"The code in {os.path.realpath(os.curdir)} must be that of the commit {baseline[:10]}. Received: "
            f"uncommitted changes in {graph.listed(changed)}. Run `git stash --include-untracked` there."
        )


def git_remote() -> str:
    """Return the remote of Git by which clones share experiments.

    Raises:
        ParamsError: there is none, or DVC has none.
    """
    remote = experiments.git_remote()
    if not remote or not graph.has_remote():
        lacking = "DVC's" if remote else "Git's"
        command = "dvc remote add -d store ADDRESS" if remote else "git remote add origin ADDRESS"
        raise ParamsError(
            f"Workers share data by DVC's remote and experiments by Git's. Received: no remote of {lacking}. "
            f"Run `{command}` once."
        )
    return remote


def train(stage: str, params: str) -> tuple[str, int]:
    """Reproduce a stage and those that it needs in the sweep's workspace, and push their data to DVC's remote.

    Returns:
        Its scores or the message of a failure, and the exit code.
    """
    write_text(trials.WORKSPACE / paths.PARAMS, params)
    os.environ["DOGS_VS_CATS_CACHE"] = str(paths.cache().resolve())  # the stages run in another folder
    with contextlib.chdir(trials.WORKSPACE):
        workspace.terminate_orphans()
        workspace.remove_dead_holders()
        states = reproduce_all(graph.plan(graph.read(), [stage]), forced=set(), pull=True)
        if failure := reproduction.failure(map(outcome_of, states.values())):
            return failure
        pushed = push_to_remotes(None, return_state=True)
        if not pushed.is_completed():
            return str(pushed.message), 1
        scores = trials.scores_of(stage, lambda path: path.read_text(encoding="utf-8"))
        return f"val_loss {scores['val_loss']:.4f}.", 0
