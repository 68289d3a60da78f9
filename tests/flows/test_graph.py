import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dvc.exceptions import DvcException

from flows import graph, workspace
from tests.flows.conftest import TASK, add_remote, pipeline, set_number, someone_reproducing, write_task

GRAPH = {
    "download": (),
    "fetch_weights": (),
    "train_head": ("download", "fetch_weights"),
    "evaluate": ("download", "train_head"),
}
HOLDING = """\
import time
from dvc.repo import Repo

repo = Repo(".")
with repo.lock:
    print("held", flush=True)
    time.sleep(0.7)
"""


def nothing(line: str) -> None:
    """Nothing is to be said."""
    raise AssertionError(line)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC and we give up on a lock, and look again, after fractions of a second."""
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.2)
    monkeypatch.setattr(workspace, "_PAUSE", 0.1)


@pytest.mark.usefixtures("project")
def test_each_stage_comes_after_those_it_needs() -> None:
    """The graph has every stage with what it needs, in an order to run them in, however dvc.yaml lists them."""
    assert next(iter(pipeline()["stages"])) == "evaluate"
    read = graph.read()
    assert {stage: set(needed) for stage, needed in read.items()} == {stage: {*GRAPH[stage]} for stage in GRAPH}
    order = list(read)
    assert all(order.index(needed) < order.index(stage) for stage in order for needed in read[stage])


@pytest.mark.usefixtures("project")
def test_a_pipeline_in_a_subfolder_is_no_part_of_it() -> None:
    """Neither its stages are in the graph nor what a stage needs of them."""
    Path("beside").mkdir()
    stages = {"train_head": {"cmd": "touch made", "outs": ["made"]}, "other": {"cmd": "touch too", "outs": ["too"]}}
    Path("beside/dvc.yaml").write_text(json.dumps({"stages": stages}))
    ours = pipeline()
    ours["stages"]["download"]["deps"].append("beside/made")
    Path("dvc.yaml").write_text(json.dumps(ours))
    assert {stage: {*needed} for stage, needed in graph.read().items()} == {s: {*GRAPH[s]} for s in GRAPH}


def test_without_a_pipeline_dvc_says_so(project: Path) -> None:
    """A folder without dvc.yaml is refused in DVC's words."""
    (project / "dvc.yaml").unlink()
    with pytest.raises(DvcException, match=r"dvc\.yaml"):
        graph.read()


def test_the_plan_has_what_is_named_and_what_it_needs() -> None:
    """Of one stage, it and all upstream ones; of none, all; always in the graph's order."""
    assert graph.plan(GRAPH, ["download"]) == {"download": ()}
    assert list(graph.plan(GRAPH, ["train_head"])) == ["download", "fetch_weights", "train_head"]
    assert list(graph.plan(GRAPH, ["train_head", "download"])) == ["download", "fetch_weights", "train_head"]
    assert list(graph.plan(GRAPH, ["evaluate"])) == list(GRAPH)
    assert graph.plan(GRAPH, []) == GRAPH


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    """The message has what was asked for and what could be."""
    with pytest.raises(graph.UnknownStageError) as refused:
        graph.plan(GRAPH, ["train_head", "train-head", "eval"])
    assert str(refused.value) == (
        "Stages must be among download, fetch_weights, train_head, evaluate. Received: train-head, eval"
    )


@pytest.mark.usefixtures("project")
def test_nothing_changed() -> None:
    """A workspace that is up to date has no changes."""
    assert graph.changes(GRAPH, nothing) == {}


@pytest.mark.usefixtures("project")
def test_each_change_is_named() -> None:
    """A param's section, code, a missing output and another command are each said of the stages they touch."""
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
def test_only_what_is_asked_for_is_looked_at() -> None:
    """Changes of other stages are not among those of the stages asked for."""
    set_number("download", 2)
    assert graph.changes(["evaluate"], nothing) == {}


def test_a_stage_that_has_never_run_is_called_that(project: Path) -> None:
    """Without an entry in dvc.lock, a stage has never run, whatever lies in its folder."""
    (project / "dvc.lock").unlink()
    assert graph.changes(GRAPH, nothing) == dict.fromkeys(GRAPH, "never run")


def test_of_many_changes_the_first_are_named() -> None:
    """A long list is cut; one more than fits is named too, as its number would take as much room."""
    deps = {f"transfer/{letter}.py": "modified" for letter in "abcdefgh"}
    assert graph.described([{"changed deps": deps}]) == (
        "modified: transfer/a.py, transfer/b.py, transfer/c.py, transfer/d.py, transfer/e.py, transfer/f.py and 2 more"
    )
    assert graph.listed("abcdefg") == "a, b, c, d, e, f, g"


@pytest.mark.usefixtures("project")
def test_broken_params_are_named() -> None:
    """params.yaml that is no YAML is refused in DVC's words."""
    Path("params.yaml").write_text("download: [")
    with pytest.raises(DvcException, match=r"params\.yaml"):
        graph.changes(GRAPH, nothing)


@pytest.mark.usefixtures("project", "quick")
def test_a_held_lock_of_dvc_is_waited_for() -> None:
    """While another process has DVC's lock, it is said, once, that this one waits; then it goes on."""
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert graph.changes(GRAPH, said.append) == {}
    assert said == ["Waiting for another process to be done with the workspace."]


@pytest.mark.usefixtures("project", "quick")
def test_a_running_stage_is_waited_for() -> None:
    """While somebody else's DVC runs a stage, it is named with its PID; what it leaves is what counts."""
    said: list[str] = []

    def release(line: str) -> None:
        said.append(line)
        Path("go").touch()

    with someone_reproducing("download") as dvc:
        assert graph.changes(["download"], release) == {}
    assert len(said) == 1
    assert f"(PID {dvc.pid})" in said[0]


@pytest.mark.usefixtures("project", "quick")
def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience is over, whoever has the workspace is named with what to do."""
    monkeypatch.setattr(workspace, "PATIENCE", 0.3)
    begun = time.monotonic()
    with (
        someone_reproducing("download") as dvc,
        pytest.raises(workspace.BusyError, match=rf"in use by .*\(PID {dvc.pid}\).*Run again when it is done"),
    ):
        graph.changes(["download"], lambda _: None)
    assert time.monotonic() - begun < 20


@pytest.mark.usefixtures("project")
def test_a_remote_is_known() -> None:
    """There is none before one is set to be used by default."""
    assert not graph.has_remote()
    add_remote("/nowhere")
    assert graph.has_remote()


@pytest.mark.usefixtures("project")
def test_what_dvc_leaves_to_git_is_known() -> None:
    """dvc.lock and every metric are among it, outputs that DVC caches are not."""
    assert {*map(str, graph.uncached_outputs())} == {
        "dvc.lock",
        *(f"artifacts/{stage}/metrics.json" for stage in GRAPH),
    }


@pytest.mark.usefixtures("project")
def test_what_stages_read_and_none_makes_is_known() -> None:
    """Code and params are among it, what one stage hands to another is not."""
    assert {*map(str, graph.sources())} == {"params.yaml", *(f"tasks/{stage}.py" for stage in GRAPH)}
