"""Worker: take runs from a Prefect server and run them in this clone: `make worker`.

A worker for sweeps, `dogs-vs-cats worker --sweeps`, takes the points of sweeps from a pool of their own, one at a time:
the other workers take the others.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from flows import processes, server, server_problems

POOL = "dogs-vs-cats"
SWEEPS = "dogs-vs-cats-sweeps"  # the pool of the points of sweeps
WORKSPACE = "DOGS_VS_CATS_WORKSPACE"  # prefect.yaml refers to this variable
_QUERY = 5  # seconds between two queries for runs that are due
_ENDING = 15.0  # seconds for a run to end its stage and report its state


def main(*, sweeps: bool = False) -> None:
    """Run a worker until a signal ends the process.

    Args:
        sweeps: whether it takes the points of sweeps, instead of scheduled runs.
    """
    processes.interrupt_on_signals()
    address = server.address()
    if line := server.ignored():
        print(line, file=sys.stderr, flush=True)
    processes.bypass_proxy(address)
    if problem := server_problems.problem(address):
        sys.exit(f"{problem}. Start one with `make serve`, or name another in PREFECT_API_URL.")
    with suppress(KeyboardInterrupt), running(address, sweeps=sweeps) as process:
        sys.exit(process.wait())


@contextmanager
def running(address: str, name: str | None = None, *, sweeps: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker during the block; at the end, terminate its flow runs before the worker itself.

    Prefect's worker would kill them at once, and their last state would stay Running.

    Args:
        address: the address of the server's API.
        name: the worker's name; if None, Prefect chooses one.
        sweeps: whether it takes the points of sweeps, one at a time.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    command += ["--pool", SWEEPS, "--limit", "1"] if sweeps else ["--pool", POOL]
    command += ["--name", name] if name else []
    with processes.child(command, environment(address)) as process:
        try:
            yield process
        finally:
            end_runs(process.pid)


def environment(address: str) -> dict[str, str]:
    """Return the variables for a worker and its runs.

    Args:
        address: the address of the server's API.
    """
    own = {
        WORKSPACE: os.path.realpath(os.curdir),
        "PREFECT_API_URL": address,
        "PREFECT_WORKER_QUERY_SECONDS": str(_QUERY),
    }
    return processes.environment() | own


def end_runs(worker: int) -> None:
    """Terminate all flow runs of a worker, and wait for them to end.

    Args:
        worker: the worker's PID.
    """
    runs = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(worker).children(recursive=True):
            with suppress(psutil.Error):
                if "prefect.engine" in process.cmdline():
                    process.terminate()
                    runs.append(process)
    psutil.wait_procs(runs, timeout=_ENDING)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m flows.worker", description="Run a Prefect worker in this clone, until Ctrl-C."
    )
    parser.add_argument("--sweeps", action="store_true", help="take the points of sweeps instead of scheduled runs")
    try:
        main(sweeps=parser.parse_args().sweeps)
    except KeyboardInterrupt:
        sys.exit(130)
