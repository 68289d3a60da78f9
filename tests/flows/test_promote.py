import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows import promote
from tests.flows.test_promotion import Train, train, workspace  # noqa: F401 - fixtures


@pytest.mark.usefixtures("prefect_server")
def test_a_promotion_is_a_flow(train: Train, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811 - the fixture
    """The flow promotes the last run and leaves an artifact with the verdict; the table then shows the version."""
    saved = train("first", 3.0)
    state = promote.promote(return_state=True)
    assert (state.name, state.type.value) == ("Promoted", "COMPLETED"), state.message
    assert str(state.message).startswith("Promoted as v1.0.0: first. The first: its accuracy of 1.0000")
    with get_client(sync_client=True) as client:
        (artifact,) = [found for found in client.read_artifacts() if found.key == "promotion"]
    assert json.loads(str(artifact.data))[0]["verdict"] == "Promoted"
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
