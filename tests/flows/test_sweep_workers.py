import csv
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Failed
from ruamel.yaml import YAML

from flows import processes, sweep, sweep_workers, trials, worker
from flows.comparison import Result
from flows.sweep_settings import Trial
from tests.conftest import ROOT
from tests.flows.conftest import ask, git, run, wait, write_task
from transfer.runtime.errors import NetworkError, ParamsError

pytestmark = pytest.mark.long

TRIALS = [Trial(f"point {number}", 0, f"number: {number}") for number in range(3)]
JOB = sweep_workers.Job("widths", "train_head", "0" * 40, "origin")
SCORES = {"val_loss": 0.1, "val_accuracy": 0.9, "best_epoch": 2}


@contextmanager
def working(clone: Path, server: str) -> Iterator[None]:
    """Run a worker for sweeps in a clone, from when it is online until the block ends."""
    variables = processes.environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.worker", "--sweeps"]
    with subprocess.Popen(command, cwd=clone, env=variables, stdout=subprocess.DEVNULL) as process:
        try:
            wait(lambda: is_online(server))
            yield
        finally:
            process.terminate()


def is_online(server: str) -> bool:
    """Return whether a worker for sweeps is online."""
    with suppress(requests.HTTPError):  # the first worker creates the pool
        return bool(ask("POST", f"{server}/work_pools/{worker.SWEEPS}/workers/filter"))
    return False


def on_workers(name: str) -> "subprocess.CompletedProcess[str]":
    """Run a sweep on workers from a command line."""
    command = [sys.executable, "-m", "flows.sweep", name, "--on-workers"]
    variables = processes.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def flow_runs(server: str) -> list[dict[str, Any]]:
    """Return the flow runs in the pool of sweeps."""
    query = {"work_pools": {"name": {"any_": [worker.SWEEPS]}}}
    found: list[dict[str, Any]] = ask("POST", f"{server}/flow_runs/filter", query)
    return found


@pytest.fixture
def clone(real_project: Path, tmp_path: Path) -> Path:
    """A clone of the project, which has no data; both share a remote of Git and one of DVC with the data."""
    sweeps = {
        "points": {
            "wide": {"train_head.head.dense": [4]},
            "narrow": {"train_head.head.dense": []},
        },
        "stage": "train_head",
        "seeds": [0],
        "given": {"train_head.training.epochs": 1},
    }
    YAML().dump({"widths": sweeps}, real_project / "sweeps.yaml")
    run(sys.executable, "-m", "dvc", "remote", "add", "--default", "store", str(tmp_path / "a store"))
    git("commit", "--quiet", "--all", "--message=A remote")
    run(sys.executable, "-m", "flows.remote", "push")
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    git("push", "--quiet", "origin", "HEAD")
    git("clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "a clone"))
    return tmp_path / "a clone"


def test_a_worker_in_another_clone_trains_the_points(
    clone: Path, real_project: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker trains the points from the remotes alone; a second call trains nothing, and writes the same table."""
    with working(clone, prefect_server):
        first = on_workers("widths")
    assert first.returncode == 0, first.stderr
    states = {run["name"]: run["state_name"] for run in flow_runs(prefect_server)}
    assert states == {"sweep-widths-wide-seed-0": "Saved", "sweep-widths-narrow-seed-0": "Saved"}
    with (real_project / "sweeps/widths.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["point"] for line in lines] == ["wide", "narrow"]
    assert lines[0]["val_loss"] != lines[1]["val_loss"]
    assert sweep.main(["widths", "--on-workers"]) == 0
    assert capsys.readouterr().out == first.stdout
    assert len(flow_runs(prefect_server)) == 2
    run(sys.executable, "-m", "dvc", "exp", "pull", "origin", "sweep-widths-wide-seed-0")
    run(sys.executable, "-m", "dvc", "exp", "apply", "sweep-widths-wide-seed-0")
    assert "dense: [4]" in (real_project / "params.yaml").read_text()


@pytest.fixture
def pool(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """A client of the server, on which a pool of this test alone has a worker that is online but takes no runs."""
    assert prefect_server
    monkeypatch.setattr(worker, "SWEEPS", f"sweeps-{uuid.uuid4()}")
    monkeypatch.setattr(sweep_workers, "_WAITING", len(TRIALS))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=worker.SWEEPS, type="process"))
        client.send_worker_heartbeat(worker.SWEEPS, "idle", heartbeat_interval_seconds=30)
        yield client
        client.delete_work_pool(worker.SWEEPS)


def in_pool() -> WorkPoolFilter:
    """Return the filter of the flow runs in the pool."""
    return WorkPoolFilter(name=WorkPoolFilterName(any_=[worker.SWEEPS]))


def states(client: SyncPrefectClient) -> list[tuple[str, str]]:
    """Return names and states of the flow runs in the pool, sorted."""
    found = client.read_flow_runs(work_pool_filter=in_pool())
    return sorted((flow_run.name, flow_run.state.name) for flow_run in found if flow_run.state)


@pytest.mark.reliability("killed", "a worker that trains a point of a sweep", "the point is given to another")
def test_a_crashed_run_is_repeated_and_the_rest_cancelled(
    pool: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial whose run crashes is submitted again, twice at most; when the sweep stops, runs are cancelled."""

    def crash(_: float) -> None:
        for flow_run in pool.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[crashing]))):
            if flow_run.state and not flow_run.state.is_final():
                pool.set_flow_run_state(flow_run.id, Crashed(message="killed"), force=True)

    crashing = trials.experiment(JOB.sweep, TRIALS[0])
    monkeypatch.setattr(time, "sleep", crash)
    with closing(sweep_workers._finished(JOB, TRIALS)) as ended:
        trial, state = next(ended)
    assert (trial, state.name, state.message) == (TRIALS[0], "Crashed", "killed")
    others = [(trials.experiment(JOB.sweep, trial), "Cancelled") for trial in TRIALS[1:]]
    assert states(pool) == [(crashing, "Crashed")] * sweep_workers.ATTEMPTS + others


@pytest.mark.reliability(
    "two at once", "a point of a sweep fails on a worker", "the others go on; the message names it"
)
def test_a_failed_point_does_not_end_the_others(pool: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all have ended, the error has the message of each point that failed."""

    def fail(_: float) -> None:
        for flow_run in pool.read_flow_runs(work_pool_filter=in_pool()):
            if flow_run.state and not flow_run.state.is_final():
                pool.set_flow_run_state(flow_run.id, Failed(message="download: none"), force=True)

    monkeypatch.setattr(time, "sleep", fail)
    monkeypatch.setattr(sweep_workers, "_shared_project", lambda: (JOB.baseline, JOB.remote))
    monkeypatch.setattr(sweep_workers, "collect", lambda *_: {})
    with pytest.raises(trials.StoppedError) as error:
        sweep_workers.run("widths", "train_head", TRIALS)
    assert sorted(str(error.value).splitlines()) == [
        f"Point `{trial.point}`, seed 0: download: none" for trial in TRIALS
    ]


@pytest.mark.reliability("network", "a sweep on workers, and no worker is online", "its points run here")
@pytest.mark.usefixtures("prefect_server")
def test_without_a_worker_the_points_run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a worker, and so without a pool, this clone runs the points that are not done, and says so."""

    def run_here(name: str, stage: str, listed: list[Trial]) -> list[Result]:
        assert (name, stage, listed) == ("widths", "train_head", TRIALS[1:])
        return [Result(trial.point, trial.seed, SCORES) for trial in listed]

    monkeypatch.setattr(worker, "SWEEPS", f"sweeps-{uuid.uuid4()}")
    monkeypatch.setattr(sweep_workers, "_shared_project", lambda: (JOB.baseline, JOB.remote))
    monkeypatch.setattr(sweep_workers, "collect", lambda _, listed: {TRIALS[0]: SCORES} if len(listed) == 3 else {})
    monkeypatch.setattr(trials, "run", run_here)
    results = sweep_workers.run("widths", "train_head", TRIALS)
    assert results == [Result(trial.point, trial.seed, SCORES) for trial in TRIALS]
    assert "so this clone runs 2 points; `dogs-vs-cats worker --sweeps` starts one" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_changes_of_the_code_have_to_be_committed() -> None:
    """Workers train the code of a commit, so changed code is refused; changed parameters and sweeps are not."""
    Path("params.yaml").write_text("")
    with pytest.raises(ParamsError, match="git remote add origin"):
        sweep_workers._shared_project()
    write_task("download", "changed = True")
    with pytest.raises(ParamsError, match=r"uncommitted changes in tasks/download\.py\. Commit them"):
        sweep_workers._shared_project()


@pytest.mark.usefixtures("no_prefect_server")
def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the error is transient, and has the address and what to do."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}), pytest.raises(NetworkError) as error:
        next(sweep_workers._finished(JOB, TRIALS))
    assert "http://127.0.0.1:1/api. Start one with `make serve`" in str(error.value)
