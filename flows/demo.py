"""Demo: run the whole pipeline on drawings of cats and dogs in a workspace of its own: `python -m flows.demo`.

It needs no account, no photographs and no weights, and does not change params.yaml or dvc.lock.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tabulate import tabulate

from flows import processes, sandbox
from transfer.images import corrections
from transfer.runtime import disk, locks, params, paths, users

WORKSPACE = Path(".cache/demo")

# The differences from params.yaml: nothing is downloaded, everything is small, and parameters that might not be allowed
# together with these have their defaults. In float32 the scores hardly depend on the processor, and the little that the
# network has to compute takes seconds.
PARAMS: dict[str, dict[str, Any]] = {
    "download": {"source": "generated", "generated": {"photographs": 400, "size": 160, "seed": 0}},
    "fetch_weights": {"source": "random"},
    "subsample": {"photographs": 400},
    "extract_features": {
        "image_size": 64,
        "views": 1,
        "augmentation": {"horizontal_flip": True},
        "precision": "float32",
    },
    "train_head": {"training": {"epochs": 40, "model_checkpoint": None}},
    "fine_tune": {
        "precision": "float32",
        "training": {
            "epochs": 4,
            "learning_rate": 1e-5,
            "learning_rate_schedule": "constant",
            "model_checkpoint": None,
        },
    },
    "export": {"formats": []},
}


def prepare(project: Path, workspace: Path) -> None:
    """Copy the project's code to a workspace, with the demo's parameters.

    Raises:
        ParamsError: params.yaml is missing, is not YAML, or has a value where a section is expected.
    """
    sandbox.copy(project, workspace)
    document = params.read(project / paths.PARAMS, comments=True)
    YAML().dump(sandbox.merged(document, PARAMS), workspace / paths.PARAMS)
    corrections.write(workspace / paths.CORRECTIONS, [])  # the user's are of photographs


def table(metrics: dict[str, Any]) -> str:
    """Format the scores of both networks as a text table, without those of single classes."""
    scores = {name: value for name, value in metrics.items() if isinstance(value, dict) and name != "answers"}
    columns = [name for name, value in next(iter(scores.values())).items() if not isinstance(value, dict)]
    rows = [[name, *(values[column] for column in columns)] for name, values in scores.items()]
    return tabulate(rows, headers=["", *columns], tablefmt="plain", floatfmt=".4f")


def main() -> None:
    """Reproduce the pipeline in the workspace, and print scores and paths."""
    users.check()
    busy = f"Another demo is running in {WORKSPACE}. Wait for it or end it, then run again."
    with locks.exclusive(WORKSPACE.with_suffix(".lock"), busy=busy):
        with disk.space_for({WORKSPACE: 0}):
            prepare(Path(), WORKSPACE)
        _reproduce()
    _report()


def _reproduce() -> None:
    command = [sys.executable, "-m", "dvc", "repro"]
    variables = {paths.USER_FOLDER: str(Path.cwd())} | sandbox.environment()
    reproduced = subprocess.run(command, cwd=WORKSPACE, env=variables, check=False)  # noqa: S603 - no shell
    if reproduced.returncode:
        sys.exit(reproduced.returncode)


def _report() -> None:
    metrics = WORKSPACE / paths.artifact("evaluate", "metrics.json")
    print(
        f"\n{table(json.loads(metrics.read_text(encoding='utf-8')))}\n\n"
        f"Report:  {paths.displayed(metrics.with_name('report.html'))}\n"
        f"Model:   {paths.displayed(WORKSPACE / paths.artifact('fine_tune', 'model.keras'))}\n"
        f"Metrics: {paths.displayed(metrics)}\n"
        "These are drawings and random weights; for photographs, see README.md."
    )


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m flows.demo", description="Run the pipeline on drawings of cats and dogs, in .cache/demo/."
    ).parse_args()
    processes.exit_with(main)
