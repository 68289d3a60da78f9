"""Scheduling for real: server, work pool, worker and the deployments of prefect.yaml, on generated photographs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from ruamel.yaml import YAML

from flows import serve, server, worker
from tests.conftest import Reproduced
from tests.flows.conftest import ask, clone, copy_database, wait

ROOT = Path(__file__).parents[2]
STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


class Served(NamedTuple):
    """A project that is being served, and the address of its server's API."""

    project: Path
    address: str
    process: "subprocess.Popen[str]"

    def post(self, path: str, **body: Any) -> Any:
        """Ask the server."""
        return ask("POST", f"{self.address}/{path}", body)

    def deployment(self, name: str) -> str:
        """A deployment's id."""
        return str(ask("GET", f"{self.address}/deployments/name/pipeline/{name}")["id"])

    def started(self, name: str, **parameters: Any) -> str:
        """Ask for a run of a deployment now; its id."""
        asked = self.post(f"deployments/{self.deployment(name)}/create_flow_run", parameters=parameters)
        return str(asked["id"])

    def run(self, number: str) -> dict[str, Any]:
        """A flow run as the server knows it."""
        found: dict[str, Any] = ask("GET", f"{self.address}/flow_runs/{number}")
        return found

    def ended(self, number: str, *, seconds: float = 200) -> dict[str, Any]:
        """Wait until a flow run has come to an end."""
        over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait(lambda: self.run(number)["state_type"] in over, seconds=seconds)
        return self.run(number)

    def stages(self, number: str) -> dict[str, str]:
        """The names of the states of a flow run's task runs, by the names of these."""
        found = self.post("task_runs/filter", flow_runs={"id": {"any_": [number]}})
        return {each["name"]: each["state_name"] for each in found}


def working(project: Path) -> set[str]:
    """The stages that run in a project, each perhaps as two processes: a shell need not give way to its command."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        match = re.search(r"-m tasks\.(\w+)$", " ".join(process.info["cmdline"] or []))
        try:
            if match and process.cwd() == str(project):
                found.add(match[1])
        except psutil.Error:
            continue
    return found


def set_params(project: Path, section: str, **values: Any) -> None:
    """Edit params.yaml."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path)
    params[section] |= values
    yaml.dump(params, path)


@contextmanager
def serving(project: Path, home: Path, port: int) -> Iterator[Served]:
    """Have the project served, as by `make serve`, while the block runs; then end it as a Ctrl-C does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = kept | {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.serve"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said: list[str] = []
        while not said or "Serving at" not in said[-1]:
            line = process.stdout.readline() if process.stdout else ""
            assert line, "".join(said)
            said.append(line)
        yield Served(project, f"http://127.0.0.1:{port}/api", process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(
    _server: str, prefect_home: Path, reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A small project that another clone has run already, served on a port of its own."""
    folder = tmp_path_factory.mktemp("serve")
    copy_database(prefect_home, folder / "prefect")
    with serving(clone(folder / "a project", reproduced.workspace), folder / "prefect", server.free_port()) as found:
        yield found


@pytest.fixture(scope="module")
def scheduled(served: Served) -> str:
    """The first run of `nightly`, begun by its schedule, which has been moved to a few seconds from now.

    What the params ask for differs from what the other clone has run in how the evaluation looks at it.
    """
    set_params(served.project, "evaluate", bins=5)
    number = served.deployment("nightly")
    start = datetime.now(UTC) + timedelta(seconds=12)  # the scheduler looks every five seconds
    hourly = {"schedule": {"interval": 3600, "anchor_date": start.isoformat()}, "active": True}
    ask("PATCH", f"{served.address}/deployments/{number}", {"schedules": [hourly]})

    def due() -> list[dict[str, Any]]:
        asked = {"deployments": {"id": {"any_": [number]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
        runs: list[dict[str, Any]] = served.post("flow_runs/filter", **asked)
        return runs

    wait(lambda: bool(due()), seconds=90)
    return str(served.ended(due()[0]["id"])["id"])


def test_a_scheduled_run_makes_everything(served: Served, scheduled: str) -> None:
    """What the schedule begins completes by itself: stages are had back or run, all is there, the run is saved."""
    run = served.run(scheduled)
    assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), run["state"]["message"]
    assert served.stages(scheduled) == {**dict.fromkeys(STAGES, "Restored"), "evaluate": "Ran", "save": "Saved"}
    for made in ("evaluate/report.html", "fine_tune/model.keras"):
        assert (served.project / "artifacts" / made).exists()
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=served.project,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert run["name"] in listed.split()


@pytest.mark.usefixtures("scheduled")
def test_the_next_run_finds_nothing_to_do(served: Served) -> None:
    """A second run, on demand, leaves all as it is, and says so for each stage."""
    run = served.ended(served.started("on-demand"))
    assert run["state_type"] == "COMPLETED"
    assert served.stages(run["id"]) == {**dict.fromkeys(STAGES, "Unchanged"), "save": "Saved"}


@pytest.mark.usefixtures("scheduled")
def test_a_chosen_stage_is_run_again(served: Served) -> None:
    """`rerun` runs the chosen stage though nothing has changed, looks at what it needs, and at nothing else."""
    run = served.ended(served.started("rerun", stages=["split"]))
    states = {"download": "Unchanged", "subsample": "Unchanged", "split": "Ran", "save": "Saved"}
    assert served.stages(run["id"]) == states


@pytest.mark.usefixtures("scheduled")
def test_nights_do_not_pile_up_and_a_cancelled_one_leaves_nothing_running(served: Served) -> None:
    """While a night goes on the next is cancelled; cancelling the first ends its stage within ten seconds.

    Afterwards nothing of what it had half made is taken for whole.
    """
    archive = served.project / "artifacts/download/photos.zip"
    before = archive.read_bytes()
    set_params(served.project, "download", generated={"photographs": 200_000, "size": 40, "seed": 0})
    first = served.started("nightly", stages=["download"])
    wait(lambda: working(served.project) == {"download"}, seconds=60)
    second = served.ended(served.started("nightly"))
    assert (second["state_name"], second["state"]["message"]) == ("Cancelled", "Deployment concurrency limit reached.")
    assert served.run(first)["state_name"] == "Running"
    assert working(served.project) == {"download"}

    served.post(f"flow_runs/{first}/set_state", state={"type": "CANCELLING"}, force=True)
    wait(lambda: not working(served.project), seconds=10)
    assert served.ended(first)["state_name"] == "Cancelled"
    assert not archive.exists()

    set_params(served.project, "download", generated={"photographs": 60, "size": 40, "seed": 0})
    again = served.ended(served.started("on-demand", stages=["download"]))
    assert served.stages(again["id"])["download"] in ("Ran", "Restored")
    assert archive.read_bytes() == before


def test_setting_up_twice_changes_nothing(served: Served) -> None:
    """`make serve` can be ended and begun again: one work pool, three deployments, one automation, however often."""

    def found() -> tuple[list[str], list[str], list[str]]:
        pools = served.post("work_pools/filter")
        deployments = served.post("deployments/filter")
        automations = served.post("automations/filter")
        return tuple(sorted(each["name"] for each in kind) for kind in (pools, deployments, automations))  # type: ignore[return-value]

    before = found()
    assert before == ([worker.POOL], ["nightly", "on-demand", "rerun"], [serve.SILENT])
    program = f"from flows import serve; serve.set_up({served.address!r})"
    environment = dict(os.environ, PREFECT_API_URL=served.address)
    subprocess.run([sys.executable, "-c", program], cwd=served.project, env=environment, check=True)
    assert found() == before
