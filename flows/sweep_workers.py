"""Sweep workers: run the points of a sweep on Prefect workers in other clones, and collect their experiments.

Every point and seed is a flow run, see `flows.sweep_point`. A point whose experiment exists is not run again. Without
workers the points run here.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed

from flows import experiments, graph, processes, sandbox, server, server_problems, sweep_point, trials, worker
from flows.comparison import Result
from flows.sweep_settings import Trial
from flows.trials import StoppedError
from transfer.runtime import progress
from transfer.runtime.errors import NetworkError, ParamsError

DEPLOYMENT = "on-workers"
WORKER = "dogs-vs-cats worker --sweeps"
ATTEMPTS = 3  # at a trial whose run crashes, as when its worker is stopped
_IN_CLONE = "prefect.deployments.steps.set_working_directory"
_WAITING = 2  # runs for each worker that are submitted at a time: the one that it works on, and its next one
_PAUSE = 2.0  # seconds between two looks at the runs

Scores = dict[Trial, Mapping[str, float]]


class Job(NamedTuple):
    """A sweep: its name, the stage that is compared, the commit of the code, and the remote of Git for experiments."""

    sweep: str
    stage: str
    baseline: str
    remote: str


def run(name: str, stage: str, listed: Sequence[Trial]) -> list[Result]:
    """Run trials on workers and collect their experiments; without workers, or when they are gone, run them here.

    Args:
        name: the name of the sweep.
        stage: the stage whose scores are compared.
        listed: the trials.

    Raises:
        StoppedError: trials failed, after all others have ended; or the server does not answer any more.
        NetworkError: no server can be used.
        ParamsError: the project cannot be shared with workers.
        GitError: the remote of Git refuses or cannot be reached.
    """
    job = Job(name, stage, *_shared_project())
    scores = collect(job, listed)
    failures = _run_on_workers(job, listed, scores)
    if left := [trial for trial in listed if trial not in scores.keys() | failures.keys()]:
        hint = f"`{WORKER}` starts one in another clone"
        print(f"No worker for sweeps is online, so this clone runs {len(left)} points; {hint}.", file=sys.stderr)
        scores.update(zip(left, (result.scores for result in trials.run(name, stage, left)), strict=True))
    if failures:
        lines = (f"Point `{trial.point}`, seed {trial.seed}: {message}" for trial, message in failures.items())
        raise StoppedError("\n".join(lines), 1)
    return [Result(trial.point, trial.seed, scores[trial]) for trial in listed]


def _shared_project() -> tuple[str, str]:
    """Return the commit that workers must be at, and the remote of Git.

    Raises:
        ParamsError: there is no commit, the code differs from it, or there is no remote.
    """
    if obstacle := experiments.obstacle():
        raise ParamsError(f"Workers train the code of a commit: {obstacle}")
    if changed := experiments.changed(sandbox.COPIED):
        raise ParamsError(
            f"Workers train the code of the last commit. Received: uncommitted changes in {graph.listed(changed)}. "
            "Commit them, and run `git push`."
        )
    return experiments.baseline() or "", sweep_point.git_remote()


def collect(job: Job, listed: Iterable[Trial]) -> Scores:
    """Return the scores of the trials whose experiments exist, here or in Git's remote, and keep them here."""
    names = {trials.experiment(job.sweep, trial): trial for trial in listed}
    scores: Scores = {}
    for look in (experiments.present, partial(experiments.fetch, remote=job.remote)):
        wanted = [name for name, trial in names.items() if trial not in scores]
        for name, commit in look(wanted, baseline=job.baseline).items() if wanted else ():
            if found := trials.saved_scores(commit, job.stage, names[name].params):
                experiments.keep(experiments.Saved(name, commit), job.baseline)
                scores[names[name]] = found
    return scores


def _run_on_workers(job: Job, listed: Sequence[Trial], scores: Scores) -> dict[Trial, str]:
    """Run the trials without scores, and add their scores; return the messages of those that failed."""
    failures: dict[Trial, str] = {}
    missing = [trial for trial in listed if trial not in scores]
    if not missing:
        return failures
    bar = progress.bar(total=len(listed), initial=len(scores), description=f"sweep {job.sweep}", unit="points")
    with bar, closing(_finished(job, missing)) as ended:
        for trial, state in ended:
            found = collect(job, [trial]) if state.is_completed() else {}
            scores.update(found)
            if not found:
                failures[trial] = state.message or "The run has no message."
            bar.update()
            bar.set_postfix_str(f"{trial.point}: {state.message}", refresh=False)
    return failures


def _finished(job: Job, missing: Iterable[Trial]) -> Generator[tuple[Trial, State[Any]], None, None]:
    """Run trials on the workers, as long as one is online; yield each that has ended with the state of its run.

    When this ends, also by an error or Ctrl-C, its runs are cancelled.
    """
    waiting, attempts = deque(missing), Counter[Trial]()
    running: dict[UUID, Trial] = {}
    with _client() as client:
        try:
            while (waiting or running) and (workers := _count_workers(client)):
                while waiting and len(running) < _WAITING * workers:
                    trial = waiting.popleft()
                    attempts[trial] += 1
                    running[_submit(client, job, trial)] = trial
                for number, state in _ended(client, running).items():
                    trial = running.pop(number)
                    if state.is_crashed() and attempts[trial] < ATTEMPTS:
                        waiting.append(trial)
                    else:
                        yield trial, state
                time.sleep(_PAUSE)
        finally:
            _cancel(client, running)


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Connect to the Prefect server during the block.

    Raises:
        NetworkError: no server can be used.
        StoppedError: the server does not answer any more.
    """
    address = server.address()
    if line := server.ignored():
        print(line, file=sys.stderr, flush=True)
    processes.bypass_proxy(address)
    if problem := server_problems.problem(address):
        raise NetworkError(f"{problem}. Start one with `make serve`, or name another in PREFECT_API_URL.")
    try:
        with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPError as error:
        message = f"The Prefect server at {address} does not answer any more: {error!r}."
        raise StoppedError(message, NetworkError.exit_code) from None


def _count_workers(client: SyncPrefectClient) -> int:
    """Return how many workers for sweeps are online."""
    try:
        return sum(each.status == WorkerStatus.ONLINE for each in client.read_workers_for_work_pool(worker.SWEEPS))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:  # the first worker creates the pool
            return 0
        raise


def _submit(client: SyncPrefectClient, job: Job, trial: Trial) -> UUID:
    """Submit a trial; return the id of its flow run."""
    experiment = trials.experiment(job.sweep, trial)
    parameters = {
        "experiment": experiment,
        "stage": job.stage,
        "params": trial.params,
        "baseline": job.baseline,
    }
    deployment = client.create_deployment(
        client.create_flow_from_name(sweep_point.FLOW),
        DEPLOYMENT,
        work_pool_name=worker.SWEEPS,
        entrypoint="flows/sweep_point.py:sweep_point",
        # each worker replaces the variable by its own clone
        pull_steps=[{_IN_CLONE: {"directory": f"{{{{ ${worker.WORKSPACE} }}}}"}}],
    )
    return client.create_flow_run_from_deployment(deployment, parameters=parameters, name=experiment).id


def _ended(client: SyncPrefectClient, running: Iterable[UUID]) -> dict[UUID, State[Any]]:
    """Return the states of the flow runs that have ended, by their ids; one that was deleted counts as crashed."""
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(running))))
    states = {flow_run.id: flow_run.state for flow_run in found}
    all_states = ((number, states.get(number, Crashed(message="Its run was deleted."))) for number in running)
    return {number: state for number, state in all_states if state and state.is_final()}


def _cancel(client: SyncPrefectClient, running: Iterable[UUID]) -> None:
    """Cancel flow runs; a worker ends one that it works on."""
    for number in running:
        with suppress(httpx.HTTPError, ObjectNotFound):
            client.set_flow_run_state(number, Cancelling(message="The sweep was stopped."))
