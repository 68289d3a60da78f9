"""The flow against plain `dvc repro`: a whole run of the demo, and a pipeline with nothing to do.

Both do the same work in workspaces of their own, in turns; a Prefect server runs meanwhile, as it does on a server.
"""

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

from flows import demo, server

ROOT = Path(__file__).parent.parent
ROUNDS = 3


def prepare(workspace: Path) -> None:
    """Make a clone of the project, without what is ignored, with the demo's params."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, workspace / name)
    yaml = YAML()
    params = workspace / "params.yaml"
    yaml.dump(demo.merged(yaml.load(params), demo.PARAMS), params)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The project"]):
        who = ["-c", "user.name=benchmark", "-c", "user.email=benchmark"]
        subprocess.run(["git", *who, *arguments], cwd=workspace, check=True)


@contextmanager
def prefect(home: Path) -> Iterator[dict[str, str]]:
    """Have a server of Prefect while the block runs; the environment that leads to it."""
    port = server.free_port()
    with temporary_settings({PREFECT_HOME: home}), server.running(port):
        yield demo.environment() | {"PREFECT_HOME": str(home), "PREFECT_API_URL": server.at(port)}


def seconds(workspace: Path, environment: Mapping[str, str], *module: str) -> float:
    """Run a module in the workspace; how long the whole process took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


def inside(address: str) -> float:
    """How long the newest flow run took by its own account, from start to Completed."""
    asked = {"sort": "START_TIME_DESC", "limit": 1}
    (run,) = requests.post(f"{address}/flow_runs/filter", json=asked, timeout=10).json()
    return float(run["total_run_time"])


def said(times: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"


def main() -> None:
    """Measure and print."""
    plain, flow, ratios, nothing, within = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder, prefect(Path(folder) / "prefect") as environment:
        for number in range(ROUNDS):
            one, other = Path(folder) / f"plain {number}", Path(folder) / f"flow {number}"
            for workspace in (one, other):
                prepare(workspace)
            plain.append(seconds(one, environment, "dvc", "repro"))
            flow.append(seconds(other, environment, "flows.pipeline"))
            ratios.append(flow[-1] / plain[-1])
            nothing.append(seconds(other, environment, "flows.pipeline"))
            within.append(inside(environment["PREFECT_API_URL"]))
            shutil.rmtree(one)
            shutil.rmtree(other)
    print(f"whole demo, `dvc repro`:            {said(plain)}")
    print(f"whole demo, the flow:               {said(flow)}")
    print(f"extra time of the flow, per round:  {', '.join(f'{100 * ratio - 100:.0f} %' for ratio in ratios)}")
    print(f"nothing to do, the whole process:   {said(nothing)}")
    print(f"nothing to do, start to Completed:  {said(within)}")


if __name__ == "__main__":
    main()
