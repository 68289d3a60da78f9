"""The whole pipeline on drawn pictures, in a workspace of its own: `python -m flows.demo`.

It needs no account, no photographs and no weights, and leaves params.yaml and dvc.lock as they are.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import processes
from transfer.runtime import disk, params, paths
from transfer.runtime.errors import DiskError, ParamsError

WORKSPACE = Path(".cache/demo")
COPIED = ("dvc.yaml", ".dvcignore", ".dvc/plots", "inbox/README.md", "tasks", "transfer")

# what differs from params.yaml: nothing is downloaded, everything is small, and what these would forbid is as it comes
PARAMS: dict[str, dict[str, Any]] = {
    "download": {"source": "generated", "generated": {"photographs": 400, "size": 96, "seed": 0}},
    "fetch_weights": {"source": "random"},
    "subsample": {"photographs": 400},
    "extract_features": {"image_size": 64, "views": 1, "augmentation": {"horizontal_flip": True}},
    "train_head": {"training": {"epochs": 20, "model_checkpoint": None}},
    "fine_tune": {"training": {"epochs": 4, "learning_rate": 1e-5, "model_checkpoint": None}},
}


def merged(values: Any, changes: dict[str, Any]) -> Any:
    """Params with some values changed, section by section; comments and order are kept.

    Raises:
        ParamsError: a value has the place of a section.
    """
    if not isinstance(values, dict):
        raise ParamsError(f"{paths.PARAMS} must have a section with {', '.join(changes)}. Received: {values!r}")
    for name, change in changes.items():
        values[name] = merged(values.get(name, {}), change) if isinstance(change, dict) else change
    return values


def copy(project: Path, workspace: Path) -> None:
    """Copy what a run needs of the project, but for params, beside what earlier runs left in the workspace.

    DVC works there without Git.
    """
    for name in COPIED:
        shutil.rmtree(workspace / name, ignore_errors=True)
        for file in files(project / name):
            target = workspace / file.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
    config = (project / ".dvc" / "config").read_text(encoding="utf-8")
    (workspace / ".dvc" / "config").write_text(config.replace("[core]", "[core]\n    no_scm = true"), encoding="utf-8")


def files(path: Path) -> list[Path]:
    """Every file at or below a path but Python's own; nothing if there is none."""
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]


def prepare(project: Path, workspace: Path) -> None:
    """Copy what a run needs of the project, with the demo's params.

    Raises:
        ParamsError: params.yaml is missing, no YAML, or has a value in the place of a section.
    """
    copy(project, workspace)
    YAML().dump(merged(params.read(project / paths.PARAMS, comments=True), PARAMS), workspace / paths.PARAMS)


def table(metrics: dict[str, Any]) -> str:
    """The scores of both networks, a line each, under a heading; those of single classes are left out."""
    scores = {name: value for name, value in metrics.items() if isinstance(value, dict)}
    columns = [name for name, value in next(iter(scores.values())).items() if not isinstance(value, dict)]
    lines = ["".join([f"{'':12}", *(f"{column:>19}" for column in columns)])]
    lines += [
        "".join([f"{name:12}", *(f"{value[column]:19.4f}" for column in columns)]) for name, value in scores.items()
    ]
    return "\n".join(lines)


def environment() -> dict[str, str]:
    """The variables DVC is started with: its stages run this very Python and keep their memo in the workspace."""
    return {name: value for name, value in processes.environment().items() if name != "DOGS_VS_CATS_CACHE"}


def main() -> None:
    """Reproduce the pipeline in the workspace and say where to look."""
    try:
        with disk.space_for({WORKSPACE: 0}):
            prepare(Path(), WORKSPACE)
    except (ParamsError, DiskError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    reproduced = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=WORKSPACE, env=environment(), check=False)
    if reproduced.returncode:
        sys.exit(reproduced.returncode)
    artifacts = WORKSPACE / "artifacts"
    metrics = artifacts / "evaluate" / "metrics.json"
    print(
        f"\n{table(json.loads(metrics.read_text(encoding='utf-8')))}\n\n"
        f"Report:  {artifacts / 'evaluate' / 'report.html'}\n"
        f"Model:   {artifacts / 'fine_tune' / 'model.keras'}\n"
        f"Metrics: {metrics}\n"
        "These were drawn pictures and random weights; for photographs, see README.md."
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
