import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows import notifications, promote
from tests.flows.conftest import ask, wait
from tests.flows.test_production import Train, train, workspace  # noqa: F401 - fixtures


def test_a_promotion_is_a_flow(
    train: Train,  # noqa: F811 - the fixture
    prefect_server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The flow promotes the last run and publishes the verdict as artifact and event; the table shows the version."""
    saved = train("first", 3.0)
    state = promote.promote(return_state=True)
    assert (state.name, state.type.value) == ("Promoted", "COMPLETED"), state.message
    assert str(state.message).startswith("Promoted as v1.0.0: first. The first: its accuracy of 1.0000")
    with get_client(sync_client=True) as client:
        (artifact,) = [found for found in client.read_artifacts() if found.key == "promotion"]
    assert json.loads(str(artifact.data))[0]["verdict"] == "Promoted"
    query = {"filter": {"event": {"name": [f"{notifications.PROMOTION}.promoted"]}}}
    wait(lambda: bool(ask("POST", f"{prefect_server}/events/filter", query)["events"]), seconds=60)
    (event,) = ask("POST", f"{prefect_server}/events/filter", query)["events"]
    assert event["payload"]["message"] == state.message
    assert "flow-run" in {related["prefect.resource.role"] for related in event["related"]}
    assert promote.promote("first", return_state=True).name == "Unchanged"
    promote.show()
    output = capsys.readouterr().out
    assert "v1.0.0" in output
    assert saved.commit[:10] in output
    assert "has judged 1 of 1" in output


def test_nothing_in_production_is_no_error(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Before the first promotion, `--show` names the command that makes it."""
    assert workspace == Path.cwd()
    promote.show()
    assert "No version is in production. `dogs-vs-cats promote`" in capsys.readouterr().out
