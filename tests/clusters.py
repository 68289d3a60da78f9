"""Real Dask clusters on loopback: a scheduler, and workers below nannies, each a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed

ROOT = Path(__file__).parent.parent
FAULTS = """
import hashlib, os
from pathlib import Path
from transfer.features import store
from transfer.images import decoding

def fault():
    file = Path(os.environ["FAULT"])
    return file.read_text() if file.exists() else ""

def faulty_row(*parts, to_row=store.to_row):
    row = to_row(*parts)
    return store.Row(row.boundary, row.pooled * 2) if fault() == "wrong rows" else row

def faulty_decode(data, decode=decoding.decode):
    if hashlib.sha256(data).hexdigest() == fault():
        os._exit(1)
    return decode(data)

if store.to_row.__name__ == "to_row":  # Dask runs this once for the nanny and once for the worker
    store.to_row, decoding.decode = faulty_row, faulty_decode
"""


class Cluster:
    """A scheduler without workers, and functions to start them.

    Args:
        folder: for files of the processes.
        environment: variables of the scheduler and of workers, besides those of the tests.
        protocol: "tcp" or "tls".
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, *, protocol: str = "tcp") -> None:
        self.fault = folder / "fault"
        self._folder, self._processes = folder, list["subprocess.Popen[bytes]"]()
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAULT": str(self.fault), **(environment or {})}
        (folder / "faults.py").write_text(FAULTS)
        file = folder / "scheduler.json"
        options = ["--host", f"{protocol}://127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        self._start("scheduler", *options)
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = str(json.loads(file.read_text())["address"])

    def start_worker(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker with one thread below a nanny; it can be made faulty by what is in the file `fault`."""
        options = ["--nthreads", "1", "--memory-limit", "3GB", "--no-dashboard", "--host", "127.0.0.1"]
        files = ["--local-directory", str(self._folder), "--preload", str(self._folder / "faults.py")]
        return self._start("worker", self.address, *options, *files, **environment)

    def _start(self, kind: str, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{kind}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
                cwd=self._folder,
                env=self._environment | environment,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until there are some workers; return the identifiers of their processes."""
        with distributed.Client(self.address, set_as_default=False) as client:
            wait_until(lambda: len(client.nthreads()) == count)
            return list(client.run(os.getpid).values())

    @contextmanager
    def faulty(self, fault: str) -> Iterator[None]:
        """Make all workers faulty: "wrong rows", or the sha256 of a photograph that ends the worker that decodes it."""
        self.fault.write_text(fault)
        try:
            yield
        finally:
            self.fault.unlink()

    def stop(self) -> None:
        """End all processes; a worker ends with its nanny."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
