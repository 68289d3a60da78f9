import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from prefect.utilities.callables import parameter_schema
from ruamel.yaml import YAML

from flows import graph, workspace
from flows import pipeline as flow
from tests.flows.conftest import TASK, add_remote, dvc_repro_running, pipeline, set_number, write_task

GRAPH = {
    "download": (),
    "fetch_weights": (),
    "train_head": ("download", "fetch_weights"),
    "evaluate": ("download", "train_head"),
}
HOLDING = """\
import time
from pathlib import Path
from dvc.repo import Repo

repo = Repo(".")
with repo.lock:
    print("held", flush=True)
    while not Path("go").exists():
        time.sleep(0.01)
    time.sleep(0.7)  # in which the check tries again, and logs nothing more
"""


def nothing(line: str) -> None:
    """Fail on any line that is logged."""
    raise AssertionError(line)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC gives up on a lock, and the flow tries again, after fractions of a second."""
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.2)
    monkeypatch.setattr(workspace, "_PAUSE", 0.1)


@pytest.mark.usefixtures("project")
def test_each_stage_comes_after_those_it_needs() -> None:
    """The graph has every stage with those it needs, in an order to run them in, in any order of dvc.yaml."""
    assert next(iter(pipeline()["stages"])) == "evaluate"
    read = graph.read()
    assert {stage: set(needed) for stage, needed in read.items()} == {stage: {*GRAPH[stage]} for stage in GRAPH}
    order = list(read)
    assert all(order.index(needed) < order.index(stage) for stage in order for needed in read[stage])


def test_the_run_form_offers_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's schema of the parameter has the names in the order of dvc.yaml; any text if that cannot be read."""
    stages = parameter_schema(flow.pipeline).properties["stages"]
    assert stages["type"] == "array"
    assert stages["items"] == {"type": "string", "enum": list(YAML(typ="safe").load(graph.DECLARED)["stages"])}
    monkeypatch.setattr(graph, "DECLARED", Path("no such file"))
    assert parameter_schema(flow.pipeline).properties["stages"]["items"] == {"type": "string"}


@pytest.mark.usefixtures("project")
def test_a_pipeline_in_a_subfolder_is_not_in_the_graph() -> None:
    """Neither the stages of another dvc.yaml are in the graph, nor edges to them."""
    Path("other").mkdir()
    stages = {"train_head": {"cmd": "touch made", "outs": ["made"]}, "other": {"cmd": "touch too", "outs": ["too"]}}
    Path("other/dvc.yaml").write_text(json.dumps({"stages": stages}))
    content = pipeline()
    content["stages"]["download"]["deps"].append("other/made")
    Path("dvc.yaml").write_text(json.dumps(content))
    assert {stage: {*needed} for stage, needed in graph.read().items()} == {s: {*GRAPH[s]} for s in GRAPH}


def test_a_folder_without_a_pipeline_is_refused(project: Path) -> None:
    """The error of a folder without dvc.yaml is DVC's."""
    (project / "dvc.yaml").unlink()
    with pytest.raises(DvcException, match=r"dvc\.yaml"):
        graph.read()


def test_the_plan_has_the_named_stages_and_those_they_need() -> None:
    """The plan of a stage has all upstream ones, that of no stage has all, always in the graph's order."""
    assert graph.plan(GRAPH, ["download"]) == {"download": ()}
    assert list(graph.plan(GRAPH, ["train_head"])) == ["download", "fetch_weights", "train_head"]
    assert list(graph.plan(GRAPH, ["train_head", "download"])) == ["download", "fetch_weights", "train_head"]
    assert list(graph.plan(GRAPH, ["evaluate"])) == list(GRAPH)
    assert graph.plan(GRAPH, []) == GRAPH


def test_an_unknown_stage_is_refused() -> None:
    """The message has the stages that exist and those that do not."""
    with pytest.raises(graph.UnknownStageError) as refused:
        graph.plan(GRAPH, ["train_head", "train-head", "eval"])
    assert str(refused.value) == (
        "Stages must be among download, fetch_weights, train_head, evaluate. Received: train-head, eval"
    )


@pytest.mark.usefixtures("project")
def test_an_up_to_date_workspace_has_no_changes() -> None:
    """If all stages are up to date, none is returned."""
    assert graph.changes(GRAPH, nothing) == {}


@pytest.mark.usefixtures("project")
def test_each_change_is_named() -> None:
    """A parameter, code, a missing output and another command are the reasons of the stages they concern."""
    set_number("download", 2)
    write_task("fetch_weights", TASK + "# another\n")
    Path("artifacts/train_head/metrics.json").unlink()
    changed = pipeline()
    changed["stages"]["evaluate"]["cmd"] += " --verbose"
    Path("dvc.yaml").write_text(json.dumps(changed))
    assert graph.changes(GRAPH, nothing) == {
        "download": "modified: download",
        "fetch_weights": "modified: tasks/fetch_weights.py",
        "train_head": "deleted: artifacts/train_head/metrics.json",
        "evaluate": "changed command",
    }


@pytest.mark.usefixtures("project")
def test_only_the_named_stages_are_checked() -> None:
    """Changes of other stages are not returned."""
    set_number("download", 2)
    assert graph.changes(["evaluate"], nothing) == {}


def test_a_stage_that_has_never_run_has_that_as_reason(project: Path) -> None:
    """Without an entry in dvc.lock, a stage has never run, whatever is in its folder."""
    (project / "dvc.lock").unlink()
    assert graph.changes(GRAPH, nothing) == dict.fromkeys(GRAPH, "never run")


def test_of_many_changes_the_first_are_named() -> None:
    """A long list is cut; a single name more is not, as the number would be as long."""
    deps = {f"transfer/{letter}.py": "modified" for letter in "abcdefgh"}
    assert graph.described([{"changed deps": deps}]) == (
        "modified: transfer/a.py, transfer/b.py, transfer/c.py, transfer/d.py, transfer/e.py, transfer/f.py and 2 more"
    )
    assert graph.listed("abcdefg") == "a, b, c, d, e, f, g"


@pytest.mark.usefixtures("project")
def test_broken_params_are_named() -> None:
    """The error of a params.yaml that is not YAML is DVC's, and names the file."""
    Path("params.yaml").write_text("download: [")
    with pytest.raises(DvcException, match=r"params\.yaml"):
        graph.changes(GRAPH, nothing)


@pytest.mark.usefixtures("project", "quick")
def test_the_check_waits_for_a_lock_of_dvc() -> None:
    """While another process holds DVC's lock, that is logged once; then the check goes on."""
    output: list[str] = []

    def release(line: str) -> None:
        output.append(line)
        Path("go").touch()

    with subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        try:
            assert graph.changes(GRAPH, release) == {}
        finally:
            holder.kill()
    assert output == ["Waiting for another process to finish with the workspace."]


@pytest.mark.usefixtures("project", "quick")
def test_the_check_waits_for_a_running_stage() -> None:
    """While another DVC runs a stage, it is logged with its PID; the check uses its result."""
    output: list[str] = []

    def release(line: str) -> None:
        output.append(line)
        Path("go").touch()

    with dvc_repro_running("download") as dvc:
        assert graph.changes(["download"], release) == {}
    assert len(output) == 1
    assert f"(PID {dvc.pid})" in output[0]


@pytest.mark.usefixtures("project", "quick")
def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `LONGEST_WAIT`, the error names the process that uses the workspace, and what to do."""
    monkeypatch.setattr(workspace, "LONGEST_WAIT", 0.3)
    begun = time.monotonic()
    with (
        dvc_repro_running("download") as dvc,
        pytest.raises(
            workspace.WorkspaceBusyError, match=rf"in use by .*\(PID {dvc.pid}\).*Run again when that has ended"
        ),
    ):
        graph.changes(["download"], lambda _: None)
    assert time.monotonic() - begun < 20


@pytest.mark.usefixtures("project")
def test_a_default_remote_is_found() -> None:
    """There is no remote before a default one is configured."""
    assert not graph.has_remote()
    add_remote("/nowhere")
    assert graph.has_remote()


@pytest.mark.usefixtures("project")
def test_outputs_that_git_keeps_are_found() -> None:
    """These are dvc.lock and every metric, but no outputs that DVC caches."""
    assert {*map(str, graph.uncached_outputs())} == {
        "dvc.lock",
        *(f"artifacts/{stage}/metrics.json" for stage in GRAPH),
    }


@pytest.mark.usefixtures("project")
def test_inputs_that_no_stage_makes_are_found() -> None:
    """These are code and params.yaml, but no output of a stage."""
    assert {*map(str, graph.sources())} == {"params.yaml", *(f"tasks/{stage}.py" for stage in GRAPH)}
