"""`make serve` with synthetic pictures: server, work pool, worker and the deployments of prefect.yaml."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prefect.settings import PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML

from flows import automations, notifications, serve, server, worker
from tests import servers
from tests.conftest import Reproduced
from tests.flows.conftest import EMPTY, SECONDS, ask, clone, copy_database, using_server, wait
from tests.flows.serving import Served, serving, set_params

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.long
AUTOMATIONS = (automations.HEARTBEAT, notifications.FAILED, notifications.NOT_BEGUN, notifications.REFUSED)
STAGES = list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


def working(project: Path) -> dict[str, psutil.Process]:
    """Return the processes of the stages that run in a project, by the stage."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        try:
            if command[-3:-1] == ["-m", "tasks"] and process.cwd() == str(project):
                found[command[-1]] = process
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def webhook() -> Iterator[servers.StandIn]:
    """The receiver of notifications."""
    with servers.serve(b"") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def served(
    _server: str,
    prefect_home: Path,
    reproduced: Reproduced,
    webhook: servers.StandIn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A small project with the DVC cache of a clone in which the demo has run, served on a port of its own.

    Photographs that arrive start a run after two seconds.
    """
    folder = tmp_path_factory.mktemp("serve")
    copy_database(prefect_home / EMPTY, folder / "prefect")
    project, port = clone(folder / "a project", reproduced.workspace), server.free_port()
    variables = {
        notifications.VARIABLE: f"{webhook.address}/hook/{servers.TOKEN}",
        "PREFECT_LOGGING_ROOT_LEVEL": "INFO",  # at which clients of HTTP log addresses
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    with serving(project, folder / "prefect", port, "--on-arrival", "2", **variables) as found:
        yield found


@pytest.fixture(scope="module")
def scheduled(served: Served) -> str:
    """The first run of `nightly`, started by its schedule, which has been moved to a few seconds from now."""
    number = served.deployment("nightly")
    start = datetime.now(UTC) + timedelta(seconds=12)  # the scheduler checks every two seconds
    hourly = {"schedule": {"interval": 3600, "anchor_date": start.isoformat()}, "active": True}
    ask("PATCH", f"{served.address}/deployments/{number}", {"schedules": [hourly]})

    def due() -> list[dict[str, Any]]:
        soon = {"expected_start_time": {"before_": (start + timedelta(minutes=30)).isoformat()}}
        query = {"deployments": {"id": {"any_": [number]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
        runs: list[dict[str, Any]] = served.post("flow_runs/filter", flow_runs=soon, **query)
        return runs

    wait(lambda: bool(due()), pause=0.5)
    return str(served.ended(due()[0]["id"])["id"])


def test_a_scheduled_run_makes_everything(served: Served, scheduled: str) -> None:
    """A scheduled run completes: its stages are restored from another clone's, all outputs exist, the run is saved."""
    run = served.run(scheduled)
    assert (run["state_type"], run["auto_scheduled"]) == ("COMPLETED", True), run["state"]["message"]
    expected = {**dict.fromkeys(STAGES, "Restored"), "save": "Saved"}
    assert served.stages(scheduled, len(expected)) == expected
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
    expected = {**dict.fromkeys(STAGES, "Unchanged"), "save": "Saved"}
    assert served.stages(run["id"], len(expected)) == expected


def test_a_chosen_stage_is_run_again(served: Served, asked: dict[str, str]) -> None:
    """`rerun` runs the chosen stage although nothing has changed, and checks only the stages that it needs."""
    run = served.ended(asked["rerun"])
    states = {"download": "Unchanged", "subsample": "Unchanged", "split": "Ran", "save": "Saved"}
    assert served.stages(run["id"], len(states)) == states


@pytest.mark.usefixtures("scheduled")
def test_nightly_runs_do_not_overlap_and_a_cancelled_one_ends_its_stage(served: Served) -> None:
    """While a nightly run goes on the next is cancelled; cancelling the first ends its stage.

    Afterwards no incomplete output is used.
    """
    archive = served.project / "artifacts/download/photos.zip"
    before = archive.read_bytes()
    set_params(served.project, "download", generated={"photographs": 200_000, "size": 40, "seed": 0})
    first = served.started("nightly", stages=["download"])
    wait(lambda: "download" in working(served.project), pause=0.2)
    stage = working(served.project)["download"]
    wait(lambda: stage.cpu_times().user > 1)  # it draws
    stage.suspend()  # so that it does not take the processor from the others meanwhile
    second = served.ended(served.started("nightly"))
    assert (second["state_name"], second["state"]["message"]) == ("Cancelled", "Deployment concurrency limit reached.")
    assert served.run(first)["state_name"] == "Running"
    assert working(served.project).keys() == {"download"}

    stage.resume()
    served.post(f"flow_runs/{first}/set_state", state={"type": "CANCELLING"}, force=True)
    wait(lambda: not working(served.project), pause=0.2)
    assert served.ended(first)["state_name"] == "Cancelled"
    assert not archive.exists()

    set_params(served.project, "download", generated={"photographs": 60, "size": 40, "seed": 0})
    again = served.ended(served.started("on-demand", stages=["download"]))
    assert served.stages(again["id"], 2)["download"] in ("Ran", "Restored")
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
        timeout=SECONDS,
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


def set_up_notifications(served: Served, address: str | None) -> None:
    """Have the server notify a webhook or none; a run is late after ten seconds."""
    with temporary_settings({PREFECT_API_URL: served.address}):
        notifications.set_up(address, late=timedelta(seconds=10))


def names_on_server(served: Served) -> tuple[list[str], ...]:
    """Return the names of the server's work pools, deployments and automations."""
    kinds = ("work_pools", "deployments", "automations")
    return tuple(sorted(item["name"] for item in served.post(f"{kind}/filter")) for kind in kinds)


def arrive(project: Path, *names: str) -> None:
    """Write photographs into the inbox of a project, slowly."""
    for name in names:
        (project / "inbox/cat").mkdir(parents=True, exist_ok=True)
        with (project / "inbox/cat" / name).open("wb") as file:
            for _ in range(4):
                file.write(b"part")
                file.flush()
                time.sleep(0.1)


def texts(webhook: servers.StandIn) -> list[str]:
    """Return the texts that the webhook has received; each was sent to its whole address."""
    assert {request.path for request in webhook.requests} <= {f"/hook/{servers.TOKEN}"}
    return [json.loads(request.body)["text"] for request in webhook.requests]


def test_photographs_that_arrive_start_one_run(served: Served, webhook: servers.StandIn) -> None:
    """Many photographs start one run, those that arrive while it goes on one more; a failure of each is told."""
    set_params(served.project, "evaluate", bins=-1)
    arrive(served.project, *(f"{number}.jpg" for number in range(8)))
    wait(lambda: bool(served.runs("on-arrival")))
    arrive(served.project, "8.jpg", "9.jpg")
    (first,) = served.runs("on-arrival")
    served.ended(first["id"])
    wait(lambda: len(served.runs("on-arrival")) > 1)
    runs = served.runs("on-arrival")
    assert [served.ended(run["id"])["state_type"] for run in runs] == ["FAILED"] * 2
    set_params(served.project, "evaluate", bins=10)
    wait(lambda: len(webhook.requests) > 1)
    for run, text in zip(runs, texts(webhook), strict=True):
        assert f"the run {run['name']} has ended as Failed. " in text
        assert "`evaluate.bins`" in text
        assert f"/runs/flow-run/{run['id']}" in text


def test_setting_up_twice_changes_nothing(
    served: Served, webhook: servers.StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make serve` can be repeated: there are one work pool, three deployments and four automations each time."""
    before = names_on_server(served)
    assert before == ([worker.POOL], ["nightly", "on-demand", "rerun"], sorted(AUTOMATIONS))
    with using_server(served.address, tmp_path / "prefect"):
        monkeypatch.chdir(served.project)
        serve.create_pool(served.address)
        serve.create_deployments(served.address)
    set_up_notifications(served, f"{webhook.address}/hook/{servers.TOKEN}")
    assert names_on_server(served) == before


def test_what_has_not_begun_or_was_refused_is_told(served: Served, webhook: servers.StandIn) -> None:
    """A due run that no worker takes, and a refused promotion, are told; without an address nothing is."""
    webhook.requests.clear()
    set_up_notifications(served, f"{webhook.address}/hook/{servers.TOKEN}")
    ask("PATCH", f"{served.address}/work_pools/{worker.POOL}", {"is_paused": True})
    late = served.post(f"deployments/{served.deployment('nightly')}/create_flow_run", tags=["auto-scheduled"])
    served.post(f"flow_runs/{late['id']}/set_state", state={"type": "SCHEDULED", "name": "Late"}, force=True)
    message = 'Refused: worse. A "quoted" reason.'
    resource = {"prefect.resource.id": f"{notifications.PROMOTION}.worse"}
    event = {"event": f"{notifications.PROMOTION}.refused", "resource": resource, "payload": {"message": message}}
    ask("POST", f"{served.address}/events", [event | {"occurred": datetime.now(UTC).isoformat(), "id": late["id"]}])
    wait(lambda: len(webhook.requests) > 1)
    not_begun, refused = sorted(texts(webhook), key=lambda text: message in text)
    assert refused.startswith(f"dogs-vs-cats: {message}")
    assert f"the run {late['name']} is due and has not begun" in not_begun
    served.post(f"flow_runs/{late['id']}/set_state", state={"type": "CANCELLED"}, force=True)
    ask("PATCH", f"{served.address}/work_pools/{worker.POOL}", {"is_paused": False})

    set_up_notifications(served, None)
    assert names_on_server(served)[2] == [automations.HEARTBEAT]
    assert len(served.runs("on-arrival")) == 2
    for file in (path for folder in (served.home, served.project) for path in folder.rglob("*") if path.is_file()):
        assert servers.TOKEN.encode() not in file.read_bytes(), file
