"""Rows per second of extraction on a Dask cluster of this machine: two workers of one thread, one, and none.

The scheduler's own cost is its processor time as a share of the workers'. Each number of workers has a cluster of its
own, whose workers have computed before they are measured; this machine needs two cores that do nothing else.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PHOTOGRAPHS = 49  # one that this machine computes, and six batches
SIZE = 224
BATCH = 8
ROUNDS = 3


def start(folder: Path, workers: int) -> list[psutil.Process]:
    """Start a scheduler, whose address is then in `scheduler.json`, and workers of one thread."""
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    commands = [["dask_scheduler", *options, "--port", "0", "--scheduler-file", str(file)]]
    size = ["--nthreads", "1", "--memory-limit", "3GB", "--local-directory", str(folder)]
    commands += [["dask_worker", *options, "--scheduler-file", str(file), *size]] * workers
    processes = []
    for module, *arguments in commands:
        processes.append(
            psutil.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                stderr=subprocess.DEVNULL,
            )
        )
        while not (file.exists() and file.read_text().endswith("}")):
            time.sleep(0.05)
    return processes


def make_job(folder: Path) -> tuple[list[Any], Any]:
    """Write photographs and weights; return the views to compute, and the job that computes and drops them."""
    from transfer.features import extraction, views
    from transfer.features.cluster_job import Inputs, Job
    from transfer.images import augmentation, decoding, manifest
    from transfer.network import vgg16, weights
    from transfer.runtime import files
    from transfer.sources import synthetic

    shots = []
    for number in range(PHOTOGRAPHS):
        data = synthetic.draw("cat", number, size=432, seed=0)
        (folder / f"{number}.jpg").write_bytes(data)
        entry = manifest.Entry(f"{number}.jpg", "cat", hashlib.sha256(data).hexdigest(), 432, 432)
        shots.append(views.Shot(entry, 0))
    weights.write(folder / "vgg16.weights.h5", weights.random(seed=0))
    extraction.use_one_thread_per_replica()
    network = {"image_size": SIZE, "boundary": "block4_pool", "precision": "float32"}
    compute = extraction.build_network(weights.read(folder / "vgg16.weights.h5"), **network)
    off = dict.fromkeys(("rotation", "shift", "shear"), 0.0) | dict.fromkeys(("zoom", "stretch"), 1.0)
    flips = {"horizontal_flip": False, "vertical_flip": False, "fill": "reflect"}
    drawing = views.Drawing(SIZE, "crop", augmentation.Params(**off, **flips), 0)

    def compute_here(batch: Any) -> Any:
        images = [decoding.read_photo(folder / shot.photograph.path, sha256=shot.photograph.sha256) for shot in batch]
        return compute(np.stack([decoding.resize(image, size=SIZE, resizing="crop") for image in images]))

    inputs = Inputs(
        folder=folder,
        weights=folder / "vgg16.weights.h5",
        weights_sha256=files.sha256(folder / "vgg16.weights.h5"),
        drawing=drawing,
        network=network,
        shapes=[vgg16.shape_after(layer, image_size=SIZE) for layer in ("block4_pool", vgg16.POOLED)],
    )
    return shots, Job(inputs, compute=compute_here, put=lambda *_: None, advance=lambda _: None)


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and of those that it started."""
    times = [part.cpu_times() for part in [process, *process.children(recursive=True)]]
    return sum(part.user + part.system for part in times)


def measure(shots: list[Any], job: Any, processes: list[psutil.Process], address: str) -> tuple[float, float]:
    """Return rows per second after each worker's first batch, and the scheduler's share of processor time."""
    from transfer.features import cluster

    stored = []
    before = [processor_seconds(process) for process in processes]
    cluster.extract(shots, address=address, job=job._replace(advance=lambda _: stored.append(time.monotonic())))
    used = [processor_seconds(process) - start for process, start in zip(processes, before, strict=True)]
    workers = len(processes) - 1
    rows = BATCH * (len(stored) - 1 - workers)
    return rows / (stored[-1] - stored[workers]), used[0] / sum(used[1:])


def main() -> None:
    """Measure one and two workers in turns, and print rates and ratios."""
    from transfer.features import cluster

    rates: dict[int, list[float]] = {1: [], 2: []}
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        shots, job = make_job(Path(folder))
        for _ in range(ROUNDS):
            for workers, values in rates.items():
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    processes = start(Path(own), workers)
                    address = json.loads((Path(own) / "scheduler.json").read_text())["address"]
                    try:
                        time.sleep(3)
                        cluster.extract(shots, address=address, job=job)  # workers import TensorFlow
                        rate, share = measure(shots, job, processes, address)
                    finally:
                        for process in reversed(processes):
                            process.kill()
                            process.wait()
                values.append(rate)
                shares.append(share)
    print(f"{SIZE} px, {PHOTOGRAPHS} photographs, {ROUNDS} rounds; rows per second: median (lowest to highest)")
    for workers, values in rates.items():
        print(f"{workers} workers {statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"two against one {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"scheduler, of the workers' processor time {statistics.median(shares):.1%} (up to {max(shares):.1%})")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description="Measure extraction on a Dask cluster of this machine."
    ).parse_args()
    main()
