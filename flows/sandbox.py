"""Sandbox: a copy of the project's code in a folder of its own, where DVC runs without Git."""

import shutil
from pathlib import Path
from typing import Any

from flows import processes
from transfer.runtime import paths
from transfer.runtime.errors import ParamsError

COPIED = ("dvc.yaml", ".dvcignore", ".dvc/plots", "corrections.csv", "inbox/README.md", "tasks", "transfer")


def copy(project: Path, workspace: Path) -> None:
    """Copy the project's code to a workspace; results of earlier runs there stay.

    Args:
        project: the folder of the project.
        workspace: the folder to copy to; it gets no params.yaml.
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
    """Return the files at or below a path, without Python's bytecode; none if the path does not exist."""
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]


def merged(values: Any, changes: dict[str, Any]) -> Any:
    """Change some parameters in place, section by section; comments and order stay.

    Args:
        values: the content of params.yaml, or a section of it.
        changes: new values, nested like `values`.

    Returns:
        `values`.

    Raises:
        ParamsError: a value stands where a section is expected.
    """
    if not isinstance(values, dict):
        raise ParamsError(f"{paths.PARAMS} must have a section with {', '.join(changes)}. Received: {values!r}")
    for name, change in changes.items():
        values[name] = merged(values.get(name, {}), change) if isinstance(change, dict) else change
    return values


def environment() -> dict[str, str]:
    """Return the variables for DVC: stages run this Python, and their feature cache is in the workspace."""
    return {name: value for name, value in processes.environment().items() if name != "DOGS_VS_CATS_CACHE"}
