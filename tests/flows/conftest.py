"""Fixtures: a small project under Git and DVC in which all stages have run, and a Prefect server."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from flows import processes, server
from tests import sharing
from tests.conftest import Reproduced

ROOT = Path(__file__).parents[2]
EMPTY = "empty"  # the folder in the server's home with its database before the first run
SECONDS = 300.0  # to wait for what happens within seconds, unless the machine stalls
NEEDED = {  # not in the order in which they run
    "evaluate": ["download", "train_head"],
    "train_head": ["download", "fetch_weights"],
    "fetch_weights": [],
    "download": [],
}
NUMBERS = {"download": 1, "fetch_weights": 10, "train_head": 100, "evaluate": 1000}
TASK = r"""import json
import re
import sys
from pathlib import Path

stage, needed = Path(__file__).stem, sys.argv[1:]
number = int(re.search(rf"^{stage}:\s+number: (\d+)$", Path("params.yaml").read_text(), re.MULTILINE)[1])
number += sum(int(Path("artifacts", name, "made/number").read_text()) for name in needed)
Path("artifacts", stage, "made").mkdir(parents=True)
Path("artifacts", stage, "made/number").write_text(str(number))
Path("artifacts", stage, "metrics.json").write_text(json.dumps({"sum": number}))
"""
SWEEPS = """\
widths:
  stage: train_head
  seeds: [1]
  given: {train_head.training.epochs: 1}
  grid:
    train_head.head.dense: [[4], []]
"""
SLOW = """\
import time
from pathlib import Path

Path("begun").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""  # the beginning of a task that waits for the file "go"

WATCHED = """\
controller=$1
shift
(
    "$@" &
    while kill -0 "$controller" && kill -0 $!; do sleep 1; done 2>/dev/null
    kill $!
) &
"""  # runs a command in the background until the process of the first argument ends


def pipeline() -> dict[str, Any]:
    """Return the content of dvc.yaml: each stage adds its parameter `number` to the numbers of the stages it needs."""
    return {
        "stages": {
            stage: {
                "cmd": " ".join(["python", f"tasks/{stage}.py", *needed]),
                "params": [stage],
                "deps": [f"tasks/{stage}.py", *(f"artifacts/{name}/made" for name in needed)],
                "outs": [f"artifacts/{stage}/made"],
                "metrics": [{f"artifacts/{stage}/metrics.json": {"cache": False}}],
            }
            for stage, needed in NEEDED.items()
        }
    }


def assert_not_in_the_real_project() -> None:
    """Fail a test that would change the tested project instead of a copy."""
    assert ROOT not in (Path.cwd(), *Path.cwd().parents), "the fixture `project` must come first"


def run(*command: str) -> str:
    """Run a command in the current folder; return its standard output."""
    assert_not_in_the_real_project()
    result = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def git(*arguments: str) -> str:
    """Run Git; return its standard output."""
    return run("git", *arguments)


def dvc(*arguments: str) -> str:
    """Run DVC; return the standard output of it and of the stages."""
    return run(sys.executable, "-m", "dvc", *arguments)


def set_number(stage: str, number: int) -> None:
    """Change the parameter of a stage."""
    assert_not_in_the_real_project()
    path = Path("params.yaml")
    path.write_text(re.sub(rf"^{stage}:\s+number: \d+$", _params(stage, number), path.read_text(), flags=re.MULTILINE))


def _params(stage: str, number: int) -> str:
    return f"{stage}:\n  number: {number}"


def write_task(stage: str, program: str) -> None:
    """Replace the program of a stage."""
    assert_not_in_the_real_project()
    Path("tasks", f"{stage}.py").write_text(program)


def add_remote(address: Path | str) -> None:
    """Configure a default remote of DVC, and commit all tracked files."""
    assert_not_in_the_real_project()
    with Path(".dvc/config").open("a") as file:
        file.write(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {address}\n")
    git("commit", "--quiet", "--all", "--message=Remote")


def number(stage: str) -> int:
    """Return the number that a stage has written."""
    return int(Path("artifacts", stage, "made/number").read_text())


def wait(reached: Callable[[], bool], *, seconds: float = SECONDS, pause: float = 0.05) -> None:
    """Wait until a condition holds, which is checked after each pause; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(pause)


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    wait(path.exists)


@contextmanager
def dvc_repro_running(stage: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `dvc repro` of a stage, as a user does while the flow runs, until the file "go" exists or the block ends."""
    write_task(stage, SLOW + TASK)
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    with subprocess.Popen(
        command,
        env=processes.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            wait_for(Path("begun"))
            yield process
        finally:
            Path("go").touch()


def _without_user_configuration(folder: Path) -> dict[str, str]:
    """Return variables that hide the configuration of the user who runs the tests."""
    return {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(folder / "system"),
        "DVC_SITE_CACHE_DIR": str(folder / "site"),
        "DVC_NO_ANALYTICS": "1",
    }


def _set(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The project to copy; DVC's run cache has an earlier run of `download` with the number 2."""
    folder = tmp_path_factory.mktemp("made") / "a project"
    (folder / "tasks").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _set(patch, _without_user_configuration(folder.parent))
        for stage in NEEDED:
            write_task(stage, TASK)
        Path("dvc.yaml").write_text(json.dumps(pipeline()))
        Path("params.yaml").write_text("".join(f"{_params(*item)}\n" for item in NUMBERS.items()))
        shutil.copy(ROOT / ".gitignore", ".gitignore")
        git("init", "--quiet", "--initial-branch=main")
        git("config", "user.name", "Somebody")
        git("config", "user.email", "somebody@example.org")
        dvc("init", "--quiet")
        set_number("download", 2)
        dvc("repro", "--quiet", "download")
        set_number("download", 1)
        dvc("repro", "--quiet")
        git("add", ".")
        git("commit", "--quiet", "--message=The project")
    return folder


@pytest.fixture
def project(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project to change; the current folder."""
    folder = shutil.copytree(_made, tmp_path / "with a space")
    _set(monkeypatch, _without_user_configuration(tmp_path) | {"PYTHONPATH": str(ROOT)})
    monkeypatch.chdir(folder)
    return folder


def clone(folder: Path, workspace: Path) -> Path:
    """Make a Git repository of the real project, with the parameters and the DVC cache of a workspace."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("needs a Git repository, as `git ls-files` lists the files to copy")
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy2(workspace / "params.yaml", folder / "params.yaml")
    cache = f"[cache]\n    dir = {workspace / '.dvc/cache'}\n"
    (folder / ".dvc/config.local").write_text(cache)
    who = ["-c", "user.name=test", "-c", "user.email=test"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The project"]):
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture
def real_project(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with the project and a small sweep; its DVC cache has the runs of the demo."""
    folder = clone(tmp_path / "a project", reproduced.workspace)
    shutil.copytree(reproduced.workspace / ".cache/features", folder / ".cache/features")
    (folder / "sweeps.yaml").write_text(SWEEPS)
    shutil.copy2(reproduced.workspace / "dvc.lock", folder / "dvc.lock")
    monkeypatch.chdir(folder)
    git("config", "user.name", "Somebody")
    git("config", "user.email", "somebody@example.org")
    git("add", "dvc.lock")
    git("commit", "-qam", "A sweep")
    return folder


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the Prefect server, with its database; all processes of the test run share it."""
    return sharing.folder(tmp_path_factory) / "prefect"


def patient_session() -> requests.Session:
    """Return a session that repeats a request while the database is busy, as Prefect's own client does."""
    session = requests.Session()
    busy = Retry(total=12, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)
    session.mount("http://", HTTPAdapter(max_retries=busy))
    return session


@cache
def csrf_headers(api: str) -> dict[str, str]:
    """Return the headers with which a Prefect server takes requests for an hour."""
    client = str(uuid.uuid4())
    with patient_session() as session:
        answer = session.get(f"{api}/csrf-token", params={"client": client}, timeout=30)
    return {"Prefect-Csrf-Token": answer.json()["token"], "Prefect-Csrf-Client": client}


def ask(method: str, address: str, body: object = None) -> Any:
    """Send a request to a Prefect server."""
    headers = csrf_headers(address[: address.index("/api/") + len("/api")])
    with patient_session() as session:
        answer = session.request(method, address, json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def has_ended(run: Mapping[str, Any]) -> bool:
    """Return whether a flow run or task run is in a final state, as the server knows it."""
    return run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def copy_database(home: Path, other: Path) -> None:
    """Copy a server's database; that in `EMPTY` has no runs. A copy takes half a second, a new one fifteen."""
    other.mkdir()
    with (
        closing(sqlite3.connect(home / "prefect.db")) as source,
        closing(sqlite3.connect(other / "prefect.db")) as target,
    ):
        source.backup(target)


@contextmanager
def _own_settings_at(home: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use Prefect's default settings with this home, in this process and in those it starts."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        patch.delenv(name)
    patch.setenv("PREFECT_HOME", str(home))
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture(scope="session")
def _server(prefect_home: Path) -> str:
    """The address of the API of a Prefect server, which runs once for all processes of the test run."""

    def start(home: Path) -> None:
        port = server.free_port()
        with pytest.MonkeyPatch.context() as patch, _own_settings_at(home, patch):
            variables = server.environment(port)
            command = ["/bin/sh", "-c", WATCHED, "sh", str(sharing.controller()), *server.command(port)]
        with (home / "server.log").open("w") as log:
            subprocess.run(command, env=variables, stdout=log, stderr=log, start_new_session=True, check=True)
        wait(lambda: server.answers(server.at(port)))
        copy_database(home, home / EMPTY)
        (home / "address").write_text(server.at(port))

    return (sharing.make_once(prefect_home, start) / "address").read_text()


@pytest.fixture
def no_prefect_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting names a Prefect server, in this process and in those it starts."""
    with _own_settings_at(tmp_path / "prefect", monkeypatch):
        yield


@contextmanager
def using_server(address: str, home: Path) -> Iterator[None]:
    """Use a Prefect server, and otherwise Prefect's default settings, in this process and in those it starts."""
    with pytest.MonkeyPatch.context() as patch, _own_settings_at(home, patch):
        patch.setenv("PREFECT_API_URL", address)
        with temporary_settings({PREFECT_API_URL: address}):
            yield


@pytest.fixture
def prefect_server(_server: str, tmp_path: Path) -> Iterator[str]:
    """The address of the API of a Prefect server that this process and those it starts use."""
    with using_server(_server, tmp_path / "prefect"):
        yield _server
