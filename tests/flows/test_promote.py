import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows import experiments, git, graph, notifications, production, promote, records
from tasks.download import GENERATED_CLASSES
from tests.flows.conftest import ask, wait
from tests.flows.test_production import RUN, Train, judged_here, log, train, workspace  # noqa: F401 - fixtures
from transfer.prediction.model import load
from transfer.sources import synthetic

pytestmark = pytest.mark.long


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
    wait(lambda: bool(ask("POST", f"{prefect_server}/events/filter", query)["events"]))
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


def command(folder: Path, *arguments: str) -> str:
    """Run `dogs-vs-cats` in a folder; return its output, that on standard error last."""
    done = subprocess.run(
        [sys.executable, "-m", "dogs_vs_cats", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def predicted(folder: Path, photograph: Path) -> tuple[str, float]:
    """Predict a photograph in a clone with the version in production; return the version and the probability."""
    git.run("-C", str(folder), "fetch", "--quiet", "--tags")
    with contextlib.chdir(folder):
        model = load()
    return model.name.partition(",")[0], model(photograph).probability


def draw(folder: Path, *, number: int) -> None:
    """Draw pictures of each class into an inbox."""
    for class_name in GENERATED_CLASSES:
        (folder / class_name).mkdir(parents=True)
        for index in range(number):
            (folder / class_name / f"{index}.jpg").write_bytes(synthetic.draw(class_name, index, size=40, seed=0))


@pytest.mark.usefixtures("prefect_server")
def test_the_circle(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811 - fixture
    """Promoted, used elsewhere; trained with new photographs, judged by the rule; rolled back, used elsewhere again."""
    monkeypatch.setattr(production, "judge", judged_here)
    params = json.loads(Path("params.yaml").read_text())
    params["promote"] |= {"minimum_accuracy": 0.0, "accuracy_margin": 0.2, "confidence": 0.5}
    Path("params.yaml").write_text(json.dumps(params))
    experiments.save("first", graph.uncached_outputs(), run=RUN)
    assert production.promote("first", log).name == "Promoted"
    elsewhere = tmp_path / "elsewhere"
    git.run("clone", "--quiet", str(tmp_path / "bare"), str(elsewhere))
    draw(workspace / "inbox", number=60)  # half of them were there before
    photograph = workspace / "inbox/cat/59.jpg"
    first = predicted(elsewhere, photograph)
    assert first[0] == "v1.0.0"

    params["download"]["source"] = "inbox"
    params["subsample"]["photographs"] = 120
    params["train_head"]["training"]["epochs"] = 40
    Path("params.yaml").write_text(json.dumps(params))
    command(workspace, "run", "--flow", "--push", "--promote")
    verdict = records.read()[-1]
    not_worse = float(verdict.accuracy) >= float(verdict.champion_accuracy) - 0.2
    better = not_worse and float(verdict.difference_high) < 0
    assert (verdict.champion, verdict.version) == ("v1.0.0", "v2.0.0" if better else "")
    assert verdict.verdict == ("promoted" if better else "refused")
    second = predicted(elsewhere, photograph)
    assert second[0] == ("v2.0.0" if better else "v1.0.0")
    assert (second == first) != better

    if better:
        assert production.roll_back(None, log) == "Rolled back from v2.0.0 to v1.0.0."
    assert predicted(elsewhere, photograph) == first
