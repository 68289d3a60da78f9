"""`make serve` with synthetic pictures: server, work pool, worker and the deployments of prefect.yaml."""

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
import requests
from ruamel.yaml import YAML

from flows import serve, server, worker
from tests.conftest import Reproduced
from tests.flows.conftest import ask, clone, copy_database, wait

ROOT = Path(__file__).parents[2]
STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


class Served(NamedTuple):
    """A project with a running `make serve`, and the address of its server's API."""

    project: Path
    address: str
    process: "subprocess.Popen[str]"

    def post(self, path: str, **body: Any) -> Any:
        """Send a request to the server."""
        return ask("POST", f"{self.address}/{path}", body)

    def deployment(self, name: str) -> str:
        """Return a deployment's id."""
        return str(ask("GET", f"{self.address}/deployments/name/pipeline/{name}")["id"])

    def started(self, name: str, **parameters: Any) -> str:
        """Start a run of a deployment; return its id."""
        created = self.post(f"deployments/{self.deployment(name)}/create_flow_run", parameters=parameters)
        return str(created["id"])

    def run(self, number: str) -> dict[str, Any]:
        """Return a flow run as the server knows it."""
        flow_run: dict[str, Any] = ask("GET", f"{self.address}/flow_runs/{number}")
        return flow_run

    def ended(self, number: str, *, seconds: float = 200) -> dict[str, Any]:
        """Wait until a flow run has ended; return it."""
        over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait(lambda: self.run(number)["state_type"] in over, seconds=seconds)
        return self.run(number)

    def stages(self, number: str) -> dict[str, str]:
        """Return the names of the states of a flow run's task runs, by the names of the task runs."""
        found = self.post("task_runs/filter", flow_runs={"id": {"any_": [number]}})
        return {task["name"]: task["state_name"] for task in found}


def working(project: Path) -> set[str]:
    """Return the stages that run in a project."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        match = re.search(r"-m tasks (\w+)$", " ".join(process.info["cmdline"] or []))
        try:
            if match and process.cwd() == str(project):
                found.add(match[1])
        except psutil.Error:
            continue
    return found


def set_params(project: Path, section: str, **values: Any) -> None:
    """Change parameters of a section."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path)
    params[section] |= values
    yaml.dump(params, path)


@contextmanager
def serving(project: Path, home: Path, port: int) -> Iterator[Served]:
    """Run `make serve` in a project during the block."""
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
        output: list[str] = []
        while not output or "Serving at" not in output[-1]:
            line = process.stdout.readline() if process.stdout else ""
            assert line, "".join(output)
            output.append(line)
        yield Served(project, f"http://127.0.0.1:{port}/api", process)
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(
    _server: str, prefect_home: Path, reproduced: Reproduced, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A small project with the DVC cache of a clone in which the demo has run, served on a port of its own."""
    folder = tmp_path_factory.mktemp("serve")
    copy_database(prefect_home, folder / "prefect")
    with serving(clone(folder / "a project", reproduced.workspace), folder / "prefect", server.free_port()) as found:
        yield found


@pytest.fixture(scope="module")
def scheduled(served: Served) -> str:
    """The first run of `nightly`, started by its schedule, which has been moved to a few seconds from now.

    Of the parameters, only one of `evaluate` differs from those of the other clone.
    """
    set_params(served.project, "evaluate", bins=5)
    number = served.deployment("nightly")
    start = datetime.now(UTC) + timedelta(seconds=12)  # the scheduler checks every five seconds
    hourly = {"schedule": {"interval": 3600, "anchor_date": start.isoformat()}, "active": True}
    ask("PATCH", f"{served.address}/deployments/{number}", {"schedules": [hourly]})

    def due() -> list[dict[str, Any]]:
        query = {"deployments": {"id": {"any_": [number]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
        runs: list[dict[str, Any]] = served.post("flow_runs/filter", **query)
        return runs

    wait(lambda: bool(due()), seconds=90)
    return str(served.ended(due()[0]["id"])["id"])


def test_a_scheduled_run_makes_everything(served: Served, scheduled: str) -> None:
    """A scheduled run completes: its stages are restored or run, all outputs exist, the run is saved."""
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


@pytest.fixture(scope="module")
def asked(served: Served, scheduled: str) -> dict[str, str]:
    """Two runs that are asked for at once after the first, by their deployments; they take turns in the workspace."""
    assert scheduled
    return {"on-demand": served.started("on-demand"), "rerun": served.started("rerun", stages=["split"])}


def test_the_next_run_changes_nothing(served: Served, asked: dict[str, str]) -> None:
    """In a second run, on demand, each stage is Unchanged."""
    run = served.ended(asked["on-demand"])
    assert run["state_type"] == "COMPLETED"
    assert served.stages(run["id"]) == {**dict.fromkeys(STAGES, "Unchanged"), "save": "Saved"}


def test_a_chosen_stage_is_run_again(served: Served, asked: dict[str, str]) -> None:
    """`rerun` runs the chosen stage although nothing has changed, and checks only the stages that it needs."""
    run = served.ended(asked["rerun"])
    states = {"download": "Unchanged", "subsample": "Unchanged", "split": "Ran", "save": "Saved"}
    assert served.stages(run["id"]) == states


@pytest.mark.usefixtures("scheduled")
def test_nightly_runs_do_not_overlap_and_a_cancelled_one_ends_its_stage(served: Served) -> None:
    """While a nightly run goes on the next is cancelled; cancelling the first ends its stage within ten seconds.

    Afterwards no incomplete output is used.
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


@pytest.mark.reliability("two at once", "`make serve` in two clones", "the second names the first and ends with exit 1")
def test_another_clone_is_refused(served: Served, tmp_path: Path) -> None:
    """While `make serve` of a clone runs, that of another ends with one line: the first clone, and what to do."""
    before = served.post(f"work_pools/{worker.POOL}/workers/filter")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    port = served.address.removesuffix("/api").rpartition(":")[2]
    result = subprocess.run(
        [sys.executable, "-m", "flows.serve"],
        cwd=tmp_path,
        env=kept | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_API_PORT": port, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1, result.stdout
    (line,) = result.stderr.splitlines()
    assert str(served.project) in line
    assert "PREFECT_SERVER_API_PORT" in line
    after = served.post(f"work_pools/{worker.POOL}/workers/filter")
    assert [item["name"] for item in after] == [item["name"] for item in before]


def test_the_run_form_offers_the_stages(served: Served) -> None:
    """The parameter `stages` of a deployment is a choice among the stages of dvc.yaml; others are refused."""
    deployment = ask("GET", f"{served.address}/deployments/name/pipeline/on-demand")
    schema = deployment["parameter_openapi_schema"]["properties"]["stages"]
    assert (schema["type"], schema["items"]["enum"]) == ("array", STAGES)
    with pytest.raises(requests.HTTPError, match="409"):
        served.started("on-demand", stages=["secnd"])


def test_setting_up_twice_changes_nothing(served: Served) -> None:
    """`make serve` can be repeated: there are one work pool, three deployments and one automation each time."""

    def found() -> tuple[list[str], list[str], list[str]]:
        pools = served.post("work_pools/filter")
        deployments = served.post("deployments/filter")
        automations = served.post("automations/filter")
        return tuple(sorted(item["name"] for item in kind) for kind in (pools, deployments, automations))  # type: ignore[return-value]

    before = found()
    assert before == ([worker.POOL], ["nightly", "on-demand", "rerun"], [serve.AUTOMATION])
    program = (
        "import sys; from flows import serve; serve.create_pool(sys.argv[1]); serve.create_deployments(sys.argv[1])"
    )
    environment = dict(os.environ, PREFECT_API_URL=served.address)
    subprocess.run([sys.executable, "-c", program, served.address], cwd=served.project, env=environment, check=True)
    assert found() == before
