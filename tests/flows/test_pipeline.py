import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from prefect.client.schemas.objects import State
from prefect.engine import handle_engine_signals
from prefect.events.worker import EventsWorker
from prefect.flow_engine import run_flow
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker

from flows import demo, failure, pipeline
from flows import server as server_of_runs
from tests.flows.conftest import EMPTY, SECONDS, ask, copy_database, has_ended, using_server, wait
from tests.servers import TOKEN, Fault, StandIn, serve

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  first:
    cmd: python stage.py first
    params: [first]
    deps: [stage.py]
    outs: [artifacts/first/made.txt]
  second:
    cmd: python stage.py second
    params: [second]
    deps: [stage.py, artifacts/first/made.txt]
    outs: [artifacts/second/made.txt]
    metrics: [artifacts/second/metrics.json: {cache: false}]
  third:
    cmd: python stage.py third
    params: [third]
    deps: [stage.py, artifacts/second/made.txt]
    outs: [artifacts/third/made.txt]
  aside:
    cmd: python stage.py aside
    params: [aside]
    deps: [stage.py]
    outs: [artifacts/aside/made.txt]
"""
STAGE = """
import json, pathlib, subprocess, sys, time
name = sys.argv[1]
params = json.loads(pathlib.Path("params.yaml").read_text())[name]
with open(".cache/runs.log", "a") as log:
    print(name, file=log)
print(f"{name}: 50 %, 1 of 2 steps in 00:01, 1 steps/s, 00:01 left", file=sys.stderr)
while params["gate"] and not pathlib.Path("gate").exists():
    time.sleep(0.05)
if params["sleep"]:
    program = f"import time; time.sleep({params['sleep']})"
    child = subprocess.Popen([sys.executable, "-c", program, "of stage.py"])
    time.sleep(params["sleep"])
if params["exit"]:
    print(f"{name}: expected something. Received: something else.", file=sys.stderr)
    sys.exit(params["exit"])
folder = pathlib.Path("artifacts") / name
folder.mkdir(parents=True, exist_ok=True)
(folder / "made.txt").write_text(json.dumps(params))
if name == "second":
    (folder / "metrics.json").write_text(json.dumps({"accuracy": params["value"]}))
"""
CHECK = """
import json, pathlib, sys
assert sys.argv[1:] == ["--check", "params.yaml"]
wrong = [name for name, section in json.loads(pathlib.Path("params.yaml").read_text()).items() if section["value"] < 0]
for name in wrong:
    print(f"params.yaml: `{name}.value` must be greater than 0. Received: -1", file=sys.stderr)
sys.exit(78 if wrong else 0)
"""
NAMES = ("first", "second", "third", "aside")
pytestmark = pytest.mark.long


class Ended(NamedTuple):
    """A flow run that has ended, as the server knows it."""

    state: State[Any]
    run: dict[str, Any]
    tasks: dict[str, dict[str, Any]]

    @property
    def names(self) -> dict[str, str]:
        """The names of the states of the task runs, by the names of the task runs."""
        return {name: task["state_name"] for name, task in self.tasks.items()}


class Server(NamedTuple):
    """A client of a Prefect server."""

    address: str

    def post(self, path: str, **body: Any) -> Any:
        """Send a request."""
        return ask("POST", f"{self.address}/{path}", body)

    def run(self, number: str) -> dict[str, Any]:
        """Return a flow run."""
        found: dict[str, Any] = ask("GET", f"{self.address}/flow_runs/{number}")
        return found

    def named_in(self, output: str) -> dict[str, Any]:
        """Return the flow run that the output of its process names."""
        name = re.search(r"Flow run '(.+?)' - ", output)
        assert name, output
        named = {"flow_runs": {"name": {"any_": [name[1]]}}}
        found: dict[str, Any] = self.post("flow_runs/filter", **named, sort="START_TIME_DESC", limit=1)[0]
        return found

    def tasks(self, run: str, expected: int) -> dict[str, dict[str, Any]]:
        """Return the task runs of a flow run by name, when so many have ended; their events arrive with a delay."""
        deadline = time.monotonic() + SECONDS
        while True:
            found = self.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})
            if sum(map(has_ended, found)) >= expected or time.monotonic() > deadline:
                return {task["name"]: task for task in found}
            time.sleep(0.1)

    def artifacts(self, run: str) -> dict[str, Any]:
        """Return the data of a flow run's artifacts, by key."""
        found = self.post("artifacts/filter", flow_runs={"id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}


@pytest.fixture
def server(prefect_server: str) -> Server:
    """A client of the server that flows report to."""
    return Server(prefect_server)


def in_git(folder: Path, *arguments: str) -> str:
    """Run Git; return its output."""
    who = ["-c", "user.name=test", "-c", "user.email=test"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC; return its output."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def change(folder: Path = Path(), **values: dict[str, Any]) -> None:
    """Write params.yaml with some parameters changed."""
    params = {name: {"exit": 0, "gate": False, "sleep": 0, "value": 1} for name in NAMES}
    for name, changed in values.items():
        params[name] |= changed
    (folder / "params.yaml").write_text(json.dumps(params))


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project to copy."""
    folder = tmp_path_factory.mktemp("prepared") / "a project"
    for name in (".cache", "tasks"):
        (folder / name).mkdir(parents=True)
    in_git(folder, "init", "-q", "-b", "main")
    dvc(folder, "init", "-q")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "stage.py").write_text(STAGE)
    (folder / "tasks/__init__.py").touch()
    (folder / "tasks/__main__.py").write_text(CHECK)
    (folder / ".gitignore").write_text("/.cache/\n")
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    change(folder)
    in_git(folder, "add", "-A")
    in_git(folder, "commit", "-qm", "The project")
    return folder


@pytest.fixture
def project(_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with a pipeline of four stages that have not run; the current folder."""
    folder = shutil.copytree(_prepared, tmp_path / "a project")
    monkeypatch.chdir(folder)
    return folder


class Runs(NamedTuple):
    """A project in which four runs have ended: the first, one without a change, one with a change, one without it."""

    project: Path
    first: Ended
    unchanged: Ended
    changed: Ended
    restored: Ended


@pytest.fixture(scope="module")
def runs(_server: str, _prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A project with four runs; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    project = shutil.copytree(_prepared, folder / "a project")
    with using_server(_server, folder / "prefect"), running(Server(_server), project) as run:
        first, unchanged = run(expected=5), run(expected=5)
        change(second={"value": 2})
        changed = run(expected=5)
        change()
        return Runs(project, first, unchanged, changed, run(expected=5))


@pytest.fixture
def done(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with four runs, to change; the current folder."""
    folder = shutil.copytree(runs.project, tmp_path / "a project with runs")
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def running(server: Server, project: Path) -> Iterator[Callable[..., Ended]]:
    """Yield a function that runs the flow in a project, without pauses between retries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(pipeline.reproduce, "retry_delay_seconds", [0.1, 0.1, 0.1])

        def run(*stages: str, expected: int, force: bool = False, push: bool = False) -> Ended:
            state = pipeline.pipeline(stages=stages, force=force, push=push, return_state=True)
            found = server.run(str(state.state_details.flow_run_id))
            return Ended(state, found, server.tasks(found["id"], expected))

        yield run
        APILogWorker.instance().drain()  # while the settings name the server
        EventsWorker.drain_all()


@pytest.fixture
def run(server: Server, project: Path) -> Iterator[Callable[..., Ended]]:
    """A function that runs the flow in the project."""
    with running(server, project) as run:
        yield run


@pytest.fixture
def run_done(server: Server, done: Path) -> Iterator[Callable[..., Ended]]:
    """A function that runs the flow in the project with four runs."""
    with running(server, done) as run:
        yield run


def times_run(folder: Path = Path()) -> list[str]:
    """Return the stages that have run in a folder, each as often as it has run."""
    log = folder / ".cache/runs.log"
    return log.read_text().split() if log.exists() else []


@pytest.fixture
def started(prefect_server: str) -> Callable[..., "subprocess.Popen[str]"]:
    """A function that starts the flow from a command line."""

    def started(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE", "AWS_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", *arguments],
            env=kept | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return started


def working(project: Path) -> list[str]:
    """Return the command lines of the processes in a project's folder, except this one."""
    found = []
    for process in psutil.process_iter():
        try:
            here = process.cwd() == os.path.realpath(project) and process.status() != psutil.STATUS_ZOMBIE
            if here and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_each_stage_is_a_task_run_named_for_what_happened(runs: Runs) -> None:
    """First all stages run, then none; after a change and back, the changed stage and those after it are restored."""
    assert runs.first.names == {**dict.fromkeys(NAMES, "Ran"), "save": "Saved"}
    assert runs.first.state.is_completed()
    assert runs.first.run["state_type"] == "COMPLETED"
    assert runs.unchanged.names == {**dict.fromkeys(NAMES, "Unchanged"), "save": "Saved"}
    unchanged = {"first": "Unchanged", "aside": "Unchanged", "save": "Saved"}
    assert runs.changed.names == {**unchanged, "second": "Ran", "third": "Ran"}
    assert "modified: second" in runs.changed.tasks["second"]["state"]["message"]
    assert runs.restored.names == {**unchanged, "second": "Restored", "third": "Restored"}
    assert sorted(times_run(runs.project)) == sorted([*NAMES, "second", "third"])


def test_the_graph_is_that_of_dvc(runs: Runs) -> None:
    """A task run waits for those of the stages it needs: Prefect draws the graph of dvc.yaml."""
    tasks = runs.first.tasks
    names = {task["id"]: name for name, task in tasks.items()}
    upstream = {
        name: {names[waited["id"]] for waited in task["task_inputs"].get("wait_for", [])}
        for name, task in tasks.items()
    }
    assert upstream == {
        "first": set(),
        "second": {"first"},
        "third": {"second"},
        "aside": set(),
        "save": {"third", "aside"},
    }


def test_named_stages_run_with_what_they_need(run: Callable[..., Ended]) -> None:
    """The named stage and those it needs are brought up to date; with `force`, only the named one runs again."""
    assert run("second", expected=3).names == {"first": "Ran", "second": "Ran", "save": "Saved"}
    forced = run("second", expected=3, force=True)
    assert forced.names == {"first": "Unchanged", "second": "Ran", "save": "Saved"}
    assert times_run() == ["first", "second", "second"]


def test_an_unknown_stage_is_refused_before_anything_runs(run: Callable[..., Ended]) -> None:
    """The message lists the stages of the pipeline."""
    ended = run("second", "secnd", expected=0)
    assert ended.state.is_failed()
    assert ended.run["state"]["message"] == "Stages must be among first, aside, second, third. Received: secnd"
    assert ended.tasks == {}
    assert times_run() == []


@pytest.mark.reliability(
    "tampered",
    "a parameter of a late stage that is not allowed, in a flow run",
    "exit 78 before any stage runs; every output stays",
)
def test_parameters_of_all_stages_are_checked_before_the_first_runs(run_done: Callable[..., Ended]) -> None:
    """A wrong parameter of a late stage ends the run with one line; no stage runs, and no output is removed."""
    before = {path: path.read_bytes() for path in Path("artifacts").rglob("*") if path.is_file()}
    ran = times_run()
    change(first={"value": 2}, second={"value": -1})
    ended = run_done(expected=0)
    assert ended.run["state"]["message"] == "`second.value` must be greater than 0. Received: -1"
    assert failure.exit_code(ended.state) == 78
    assert ended.tasks == {}
    assert times_run() == ran
    assert {path: path.read_bytes() for path in Path("artifacts").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("run")
def test_a_failed_run_of_a_deployment_shows_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Prefect's process for the run of a deployment logs the message of the failed flow, and no traceback."""
    change(first={"exit": 65})
    with pytest.raises(SystemExit), handle_engine_signals():
        run_flow(pipeline.pipeline, parameters={"stages": ("first",)}, error_logger=get_logger("flow_runs"))
    message = "first: expected something. Received: something else."
    assert caplog.messages[-1] == f"Finished in state Failed('{message}')"
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("code", [65, 78, 1])
def test_only_transient_errors_are_retried(run: Callable[..., Ended], code: int) -> None:
    """A stage that failed with a code other than 75 is not run again."""
    change(first={"exit": code})
    ended = run("first", expected=1)
    assert (ended.names, ended.run["state_type"]) == ({"first": "Failed"}, "FAILED")
    assert times_run() == ["first"]


def test_a_failed_stage_stops_those_that_need_it(run: Callable[..., Ended]) -> None:
    """A failed stage's last line is its state's message; stages that need it do not start, others do."""
    change(second={"exit": 75})
    ended = run(expected=4)
    assert ended.names == {"first": "Ran", "second": "Failed", "third": "NotReady", "aside": "Ran"}
    assert ended.tasks["third"]["state_type"] == "CANCELLED"  # a final state, so that the timeline ends
    message = "second: expected something. Received: something else."
    assert ended.tasks["second"]["state"]["message"] == message
    assert ended.run["state_type"] == "FAILED"
    assert message in ended.run["state"]["message"]
    assert times_run().count("second") == 4


def test_a_run_can_be_restored_by_its_name(runs: Runs, done: Path) -> None:
    """Every run is an experiment; applying an older one restores its parameters, metrics and outputs."""
    assert in_git(done, "log", "--format=%s", "HEAD") == "The project\n"  # the branch has no other commit
    assert in_git(done, "diff", "--cached", "--name-only") == ""
    assert {ended.run["name"] for ended in runs[1:]} == set(dvc(done, "exp", "list", "--name-only").split())
    assert json.loads(Path("artifacts/second/metrics.json").read_text()) == {"accuracy": 1}
    dvc(done, "exp", "apply", runs.changed.run["name"])
    assert json.loads(Path("artifacts/second/metrics.json").read_text()) == {"accuracy": 2}
    assert json.loads(Path("artifacts/second/made.txt").read_text())["value"] == 2
    assert json.loads(Path("params.yaml").read_text())["second"]["value"] == 2


def test_artifacts_describe_a_run(runs: Runs, server: Server) -> None:
    """Artifacts have the stages, the parameters that differ from the last saved run, and a stage's progress."""
    before, after = runs.unchanged, runs.changed
    artifacts = server.artifacts(after.run["id"])
    stages = {row["stage"]: row for row in json.loads(artifacts["stages"])}
    assert {name: row["state"] for name, row in stages.items()} == {
        name: state for name, state in after.names.items() if name != "save"
    }
    assert json.loads(artifacts["params"]) == [{"parameter": "second.value", "now": "2", "before": "1"}]
    assert artifacts["second"] == 50.0
    described = server.post("artifacts/filter", flow_runs={"id": {"any_": [after.run["id"]]}})
    assert f"Parameters that differ from {before.run['name']}" in [artifact["description"] for artifact in described]


def test_a_workspace_that_changes_during_a_run_is_not_saved(
    run_done: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If parameters change while stages run, the run is not saved, and its message has the reason."""
    show = pipeline.show_results

    def meanwhile(*arguments: Any) -> None:
        change(third={"value": 9})
        show(*arguments)

    monkeypatch.setattr(pipeline, "show_results", meanwhile)
    ended = run_done(expected=5)
    assert ended.names["save"] == "Skipped"
    assert "third (modified: third)" in ended.run["state"]["message"]


def test_uncommitted_changes_are_saved_and_named(run: Callable[..., Ended]) -> None:
    """Uncommitted changes are part of the experiment and named; files that Git does not track are named as missing."""
    change(second={"value": 3})
    Path("other.py").write_text("")
    Path("stage.py").write_text(STAGE + "\nimport other\n")
    Path("dvc.yaml").write_text(PIPELINE.replace("deps: [stage.py]", "deps: [stage.py, other.py]"))
    message = run("aside", expected=2).run["state"]["message"]
    assert "It contains changes that are not committed: dvc.yaml, params.yaml, stage.py." in message
    assert "It lacks files that Git does not track: other.py." in message


def test_pushing_needs_a_remote(run: Callable[..., Ended]) -> None:
    """Without a remote, `push` is refused before anything runs, with the command that adds one."""
    ended = run(expected=0, push=True)
    assert "dvc remote add -d store" in ended.run["state"]["message"]
    assert times_run() == []


def test_another_clone_starts_from_what_was_pushed(
    run_done: Callable[..., Ended], done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with `push` sends data, metrics and its experiment; a run in a fresh clone computes nothing."""
    in_git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin.git")
    in_git(done, "remote", "add", "origin", str(tmp_path / "origin.git"))
    with Path(".dvc/config").open("a") as config:
        config.write(f"    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'store'}\n")
    in_git(done, "commit", "-qam", "Remote")
    in_git(done, "push", "-q", "origin", "main")
    pushed = run_done(expected=6, push=True)
    assert pushed.names["push"] == "Pushed"
    assert pushed.run["name"] in in_git(done, "ls-remote", "origin")

    in_git(tmp_path, "clone", "-q", str(tmp_path / "origin.git"), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    Path(".cache").mkdir()
    ended = run_done(expected=5)
    assert ended.names == {**dict.fromkeys(NAMES, "Restored"), "save": "Saved"}
    assert times_run() == []
    assert json.loads(Path("artifacts/second/metrics.json").read_text()) == {"accuracy": 1}


@pytest.mark.reliability(
    "killed",
    "a flow run terminated, interrupted or killed by `kill -9`",
    "within 10 s the processes of its stage have ended; the next run goes on",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stage_ends_with_its_run(
    project: Path,
    started: Callable[..., "subprocess.Popen[str]"],
    run: Callable[..., Ended],
    number: signal.Signals,
) -> None:
    """Within ten seconds of SIGTERM, SIGINT or SIGKILL a stage has ended, then all processes; the next run goes on."""
    change(second={"sleep": 4 * SECONDS})
    process = started("second")
    wait(lambda: times_run() == ["first", "second"])
    wait(lambda: any("of stage.py" in line for line in working(project)))
    process.send_signal(number)
    wait(lambda: not any("stage.py" in line for line in working(project)), seconds=10)
    wait(lambda: working(project) == [], pause=0.2)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert not Path("artifacts/second/made.txt").exists()

    change()
    assert run("second", expected=3).state.is_completed()
    assert times_run() == ["first", "second", "second"]


@pytest.mark.reliability("two at once", "two flow runs", "the second waits, names the first, and finds the work done")
@pytest.mark.usefixtures("project")
def test_a_second_run_waits_for_the_first(started: Callable[..., "subprocess.Popen[str]"]) -> None:
    """Two runs in one workspace take turns; the second logs which run it waits for, and finds the work done."""
    change(second={"gate": True})
    first = started("second")
    wait(lambda: times_run() == ["first", "second"])
    second = started("second")
    output = ""
    while "Waiting for" not in output:
        line = second.stdout.readline() if second.stdout else ""
        assert line, output
        output += line
    assert f"(PID {first.pid})" in output
    Path("gate").touch()
    output += second.communicate(timeout=SECONDS)[0]
    assert (first.wait(timeout=SECONDS), second.returncode) == (0, 0)
    assert "2 unchanged" in output
    assert times_run() == ["first", "second"]
    first.communicate()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_server_a_temporary_one_is_started(
    started: Callable[..., "subprocess.Popen[str]"], prefect_home: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """If no server answers, the run prints that it starts one, and ends it, also after SIGTERM or SIGINT."""
    copy_database(prefect_home / EMPTY, tmp_path / "prefect")
    nowhere = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_API_PORT": "9"}
    change(first={"gate": True})
    process = started("first", PREFECT_API_URL="", **nowhere)
    wait(lambda: times_run() == ["first"])
    servers = [child for child in psutil.Process(process.pid).children() if "flows.api:create" in child.cmdline()]
    assert len(servers) == 1
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert output.startswith("Starting a Prefect server for this run")
    assert not psutil.wait_procs(servers, timeout=10)[1]


@pytest.mark.usefixtures("run")
def test_the_exit_code_is_the_stages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is that of the failed stage, and 2 for an unknown stage, for which no server is started."""
    change(second={"exit": 77})
    monkeypatch.setattr(sys, "argv", ["pipeline", "second"])
    assert pipeline.main() == 77
    assert capsys.readouterr().err.rstrip().endswith("second: expected something. Received: something else.")
    monkeypatch.setattr(sys, "argv", ["pipeline", "secnd"])
    monkeypatch.setattr(server_of_runs, "connected", None)
    assert pipeline.main() == 2
    assert capsys.readouterr().err.startswith("Stages must be among")


ARCHIVE = {f"train/{kind}.{number}.jpg": bytes([number]) * 99 for kind in ("cat", "dog") for number in range(3)}


def zipped(members: dict[str, bytes]) -> bytes:
    """Make a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def kaggle() -> Iterator[StandIn]:
    """A server like Kaggle's, with an archive of its layout."""
    with serve(zipped({"train.zip": zipped(ARCHIVE)})) as stand_in:
        yield stand_in


@pytest.fixture
def downloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's own pipeline with Kaggle as its source; the current folder."""
    folder = tmp_path / "a download"
    demo.prepare(ROOT, folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("source: generated", "source: kaggle"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.reliability(
    "network", "a stage ends with exit 75", "the flow retries it after 5 seconds, 1 minute and 5 minutes"
)
def test_a_stage_is_retried_while_kaggle_is_busy(
    downloading: Path, kaggle: StandIn, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that gave up on a busy server is retried by the flow, and succeeds."""
    assert pipeline.reproduce.retry_delay_seconds == [5, 60, 300]
    for name, value in {**kaggle.environment, "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    kaggle.faults = [Fault(503, {"Retry-After": "999"})]
    with running(server, downloading) as run:
        download = run("download", expected=2).tasks["download"]
    assert (download["state_name"], download["run_count"]) == ("Ran", 2), download["state"]["message"]
    assert zipfile.is_zipfile(downloading / "artifacts/download/photos.zip")


@pytest.mark.reliability(
    "network",
    "an error while a token or a signed URL is used",
    "neither is in any line, message, traceback, artifact or file",
)
def test_a_refusal_is_final_and_shows_no_secret(
    downloading: Path,
    kaggle: StandIn,
    started: Callable[..., "subprocess.Popen[str]"],
    server: Server,
    prefect_home: Path,
) -> None:
    """A stage without permission fails without retry; the token is in no log, artifact, state, database or file."""
    kaggle.api_faults = [Fault(403)] * 9
    process = started("download", **{**kaggle.environment, "no_proxy": "127.0.0.1"})
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 77
    run = server.named_in(output)
    tasks = server.tasks(run["id"], 1)
    assert (tasks["download"]["state_name"], tasks["download"]["run_count"]) == ("Failed", 1)
    assert "rules" in tasks["download"]["state"]["message"]

    assert TOKEN not in output
    logs = server.post("logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
    assert logs
    answers = [logs, run, tasks, server.artifacts(run["id"])]
    assert TOKEN not in json.dumps(answers)
    files = [path for folder in (downloading, prefect_home) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    assert [path for path in files if TOKEN.encode() in content(path)] == []


def content(path: Path) -> bytes:
    """Return the content of a file; none of one that has vanished, as those of the server's transactions do."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
