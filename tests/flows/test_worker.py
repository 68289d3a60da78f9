import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import processes, server_problems, worker

ROOT = Path(__file__).parents[2]
RUN = """\
import signal, sys, time
from pathlib import Path

def end(*_):
    time.sleep(0.2)
    Path(f"ended-{len(sys.argv)}").touch()
    sys.exit()

signal.signal(signal.SIGTERM, end)
Path(f"begun-{len(sys.argv)}").touch()
time.sleep(60)
"""
WORKER = """\
import subprocess, sys

program = sys.argv[1]
run = subprocess.Popen([sys.executable, "-c", program, "prefect.engine"])
other = subprocess.Popen([sys.executable, "-c", program])
run.wait()
sys.stdin.readline()
other.kill()
"""


def test_a_run_finds_its_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of prefect.yaml has the clone's real path; another has the server's address."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    (tmp_path / "link").symlink_to(clone)
    monkeypatch.chdir(tmp_path / "link")
    environment = worker.environment("http://elsewhere:1/api")
    assert environment[worker.WORKSPACE] == str(clone.resolve())
    assert environment["PREFECT_API_URL"] == "http://elsewhere:1/api"
    assert f"{{{{ ${worker.WORKSPACE} }}}}" in (ROOT / "prefect.yaml").read_text()


def test_the_pool_is_the_one_of_the_deployments() -> None:
    """Every deployment of prefect.yaml uses the work pool of the worker."""
    text = (ROOT / "prefect.yaml").read_text()
    assert text.count(f"work_pool:\n      name: {worker.POOL}\n") == text.count("entrypoint:") > 0


def test_without_a_server_the_worker_prints_what_to_do(tmp_path: Path) -> None:
    """The worker ends at once with a line that has the address and what to do, without a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    result = subprocess.run(
        [sys.executable, "-m", "flows.worker"],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": address, "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert address in line
    assert "`make serve`" in line
    assert "PREFECT_API_URL" in line


def test_looking_for_the_server_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before the worker has started ends it with exit code 130, without a traceback."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server_problems, "problem", interrupted)
    monkeypatch.setattr(processes, "interrupt_on_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["flows.worker"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(worker.__file__), run_name="__main__")
    assert end.value.code == 130


def test_flow_runs_are_terminated_before_the_worker(tmp_path: Path) -> None:
    """The flow runs of a worker get SIGTERM and time to end; its other processes do not."""
    with subprocess.Popen([sys.executable, "-c", WORKER, RUN], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.glob("begun-*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.end_runs(process.pid)
        assert [path.name for path in tmp_path.glob("ended-*")] == ["ended-2"]


def test_a_worker_that_has_gone_has_no_runs() -> None:
    """A worker that has ended already is no error."""
    with subprocess.Popen(["true"]) as gone:
        pass
    assert not psutil.pid_exists(gone.pid)
    worker.end_runs(gone.pid)
