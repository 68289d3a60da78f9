"""Photographs per second of the page with many clients, against the bare network; seconds of an answer, and memory.

Server, clients and the bare network's measurements before and after are processes or threads on one machine.
"""

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import requests

from benchmarks import extraction, prediction

CLIENTS = 20
REQUESTS = 2000


class Measured(NamedTuple):
    """The seconds of each request, of all together, statuses, and the server's memory in MB over time."""

    seconds: list[float]
    total: float
    statuses: Counter[int]
    memory: list[float]


@contextmanager
def serving(model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the page in a process, as a user does; yield its address and process."""
    command = [sys.executable, "-m", "transfer.prediction.page", "--port", "0", "--model", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - opened because of `PIPE`
        address = next(filter(None, (re.search(r"http://[\d.:]+", line) for line in process.stdout)))[0]
        try:
            yield address, psutil.Process(process.pid)
        finally:
            process.terminate()


def measure(address: str, server: psutil.Process, photographs: Sequence[bytes], *, count: int, query: str) -> Measured:
    """Send photographs, one in each request, by clients that send the next one when they have an answer."""
    numbers = itertools.count()
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    memory = [server.memory_info().rss / 1e6]

    def send() -> None:
        with requests.Session() as session:
            while (number := next(numbers)) < count:
                start = time.monotonic()
                files = {"photographs": (f"{number}.jpg", photographs[number % len(photographs)])}
                answer = session.post(f"{address}/predict{query}", files=files, timeout=600)
                seconds.append(time.monotonic() - start)
                statuses[answer.status_code] += 1
                if number % 50 == 0:
                    memory.append(server.memory_info().rss / 1e6)

    clients = [threading.Thread(target=send) for _ in range(CLIENTS)]
    start = time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return Measured(seconds, time.monotonic() - start, statuses, memory)


def show(measured: Measured) -> None:
    """Print rate, times and memory."""
    centiles = statistics.quantiles(measured.seconds, n=100)
    memory = measured.memory
    print(
        f"page: {len(measured.seconds) / measured.total:.2f} photographs per second; statuses {dict(measured.statuses)}"
    )
    print(
        f"seconds of an answer: median {centiles[49]:.2f}, p95 {centiles[94]:.2f}, longest {max(measured.seconds):.2f}"
    )
    print(
        f"memory in MB: {memory[0]:.0f} idle, {memory[len(memory) // 10 + 1]:.0f} after a tenth, "
        f"{memory[len(memory) // 2]:.0f} in the middle, {memory[-1]:.0f} at the end, {max(memory):.0f} at most",
        flush=True,
    )


def main(options: argparse.Namespace) -> None:
    """Measure the bare network, the page, and the bare network again."""
    bare = extraction.Kind("bare", "float32")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photographs")
        folder.mkdir()
        extraction.write_photographs(folder)
        photographs = [file.read_bytes() for file in sorted(folder.iterdir())]
        model = options.model or prediction.write_model(Path(scratch))
        before = extraction.measure(bare, folder)
        print(f"bare network: {before:.2f} photographs per second before", flush=True)
        query = "?heat_maps=true" if options.heat_maps else ""
        with serving(model) as (address, server):
            measured = measure(address, server, photographs, count=options.requests, query=query)
        show(measured)
        after = extraction.measure(bare, folder)
        rate = len(measured.seconds) / measured.total
        print(f"bare network: {after:.2f} after; the page is at {2 * rate / (before + after):.1%} of it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="Measure the page with clients.")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"of {CLIENTS} clients (default {REQUESTS})")
    parser.add_argument("--model", type=Path, help="a network at 224 pixels; by default one of random weights")
    parser.add_argument("--heat-maps", action="store_true", help="with a heat map of each photograph")
    main(parser.parse_args())
