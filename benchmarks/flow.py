"""The time of the flow and of plain `dvc repro`: a full run of the demo, and a pipeline with nothing to do.

Both do the same work in turns, each in a workspace of its own, while a Prefect server runs.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
from prefect.settings import PREFECT_HOME, temporary_settings
from ruamel.yaml import YAML

from flows import demo, sandbox, server

ROOT = Path(__file__).parent.parent
ROUNDS = 3


def prepare(workspace: Path) -> None:
    """Create a Git repository with the project's files and the demo's parameters."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, workspace / name)
    yaml = YAML()
    params = workspace / "params.yaml"
    yaml.dump(sandbox.merged(yaml.load(params), demo.PARAMS), params)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The project"]):
        author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark"]
        subprocess.run(["git", *author, *arguments], cwd=workspace, check=True)


@contextmanager
def prefect(home: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server during the block, and yield the environment variables of its clients."""
    port = server.free_port()
    with temporary_settings({PREFECT_HOME: home}), server.running(port):
        yield sandbox.environment() | {"PREFECT_HOME": str(home), "PREFECT_API_URL": server.at(port)}


def seconds(workspace: Path, environment: Mapping[str, str], *module: str) -> float:
    """Run a module in the workspace and return the seconds of its process."""
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", *module], cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}: {process.stdout}{process.stderr}")
    return time.monotonic() - start


def run_time(address: str) -> float:
    """Return the seconds of the newest flow run from start to Completed, as Prefect recorded them."""
    query = {"sort": "START_TIME_DESC", "limit": 1}
    (run,) = requests.post(f"{address}/flow_runs/filter", json=query, timeout=10).json()
    return float(run["total_run_time"])


def median_and_range(times: list[float]) -> str:
    """Return the median and the range as text."""
    return f"{statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"


def main() -> None:
    """Measure in turns, and print times and ratios."""
    plain, flow, ratios, unchanged, run_times = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder, prefect(Path(folder) / "prefect") as environment:
        for number in range(ROUNDS):
            by_dvc, by_flow = Path(folder) / f"plain {number}", Path(folder) / f"flow {number}"
            for workspace in (by_dvc, by_flow):
                prepare(workspace)
            plain.append(seconds(by_dvc, environment, "dvc", "repro"))
            flow.append(seconds(by_flow, environment, "flows.pipeline"))
            ratios.append(flow[-1] / plain[-1])
            unchanged.append(seconds(by_flow, environment, "flows.pipeline"))
            run_times.append(run_time(environment["PREFECT_API_URL"]))
            shutil.rmtree(by_dvc)
            shutil.rmtree(by_flow)
    print(f"full demo, `dvc repro`:             {median_and_range(plain)}")
    print(f"full demo, the flow:                {median_and_range(flow)}")
    print(f"extra time of the flow, per round:  {', '.join(f'{100 * ratio - 100:.0f} %' for ratio in ratios)}")
    print(f"nothing to do, the process:         {median_and_range(unchanged)}")
    print(f"nothing to do, start to Completed:  {median_and_range(run_times)}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.flow", description="Measure what Prefect adds to DVC."
    ).parse_args()
    main()
