"""The time of a pipeline with nothing to do, and the memory of each stage with few and with many photographs.

The pictures are drawn and the weights random, as in the demo, in a temporary workspace.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import demo, sandbox

ROOT = Path(__file__).parent.parent
STAGES = ("download", "subsample", "split", "extract_features", "train_head", "fine_tune", "evaluate")
COUNTS = (500, 4000)
CHANGES: dict[str, dict[str, Any]] = {
    "extract_features": {"image_size": 64, "views": 1},
    "train_head": {"training": {"epochs": 2}},
    "fine_tune": {"training": {"epochs": 1}},
}


def set_params(workspace: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Change values in the params.yaml of a workspace."""
    yaml = YAML()
    path = workspace / "params.yaml"
    yaml.dump(sandbox.merged(yaml.load(path), changes), path)


def run(workspace: Path, *command: str) -> tuple[float, float]:
    """Run a command in a workspace and return its seconds and its peak memory in megabytes."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=workspace,
        env=sandbox.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        errors = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {errors}")
    return time.monotonic() - start, peak_memory(usage)


def peak_memory(usage: resource.struct_rusage) -> float:
    """Return the peak memory of a process in megabytes; macOS counts bytes, Linux kilobytes."""
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    """Measure, and print memory and times."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    peaks: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            workspace = Path(folder) / str(count)
            demo.prepare(ROOT, workspace)
            photographs = {"download": {"generated": {"photographs": count}}, "subsample": {"photographs": count}}
            set_params(workspace, {**CHANGES, **photographs})
            run(workspace, "tasks", "fetch_weights")
            for stage in STAGES:
                peaks[stage].append(run(workspace, "tasks", stage)[1])
        run(workspace, "dvc", "repro")
        unchanged = [run(workspace, "dvc", "repro")[0] for _ in range(5)]
        rows = sum(1 for _ in (workspace / "artifacts" / "extract_features").rglob("*.npz"))
    print(f"peak memory in MB with {' and '.join(f'{count:,}' for count in COUNTS)} photographs")
    for stage, (few, many) in peaks.items():
        print(f"{stage:18} {few:7.0f} {many:7.0f}")
    spread = f"({min(unchanged):.2f} to {max(unchanged):.2f})"
    print(f"`dvc repro` with nothing to do, {COUNTS[-1]:,} photographs and {rows:,} rows:")
    print(f"{statistics.median(unchanged):.2f} s {spread}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description="Measure the time and the memory of the pipeline."
    ).parse_args()
    main()
