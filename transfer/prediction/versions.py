"""Versions: the promoted networks of a project, as annotated tags of Git in the form of GTO, DVC's model registry.

`classifier@v2.0.0` registers a version at the commit of a saved run, and `classifier#prod#3` puts the version of its
commit into production; the tag with the highest number holds. In a project that is a folder of its repository, the
artifact has the folder in its name, as in `pets=classifier@v2.0.0`.
"""

import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from transfer.runtime import paths
from transfer.runtime.errors import DataError

ARTIFACT, STAGE = "classifier", "prod"  # in dvc.yaml; of GTO
NETWORK = "model.keras"
VERSION = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_ASSIGNED = re.compile(rf"#{STAGE}#(\d+)")
_FIELDS = ("refname:strip=2", "*objecttype", "*objectname", "taggerdate:unix", "contents:subject", "contents:body")


class Assignment(NamedTuple):
    """A version that was put into production.

    Attributes:
        number: 1 for the first; the highest is in production.
        version: its name, as `v2.0.0`.
        commit: the saved run's.
        since: the time of the promotion.
        reason: a sentence.
        details: further text of the tag.
    """

    number: int
    version: str
    commit: str
    since: datetime
    reason: str
    details: str = ""


class Registry(NamedTuple):
    """The commit of each registered version, and all that were put into production, in order."""

    versions: dict[str, str]
    assignments: list[Assignment]

    @property
    def production(self) -> Assignment | None:
        """The version in production; None before the first promotion."""
        return self.assignments[-1] if self.assignments else None


class Selected(NamedTuple):
    """A network's file, and its description for the user."""

    file: Path
    description: str


def project() -> Path:
    """Return the project's folder: the current one if it has a dvc.yaml or artifacts, or else that of this module."""
    is_project = Path("dvc.yaml").is_file() or paths.ARTIFACTS.is_dir()
    return Path() if is_project else Path(__file__).resolve().parents[2]


def read(project: Path) -> Registry:
    """Read the registry from the tags of the project's Git repository; it is empty without one."""
    artifact = tag_prefix(project)
    form = "".join(f"%({field})%00" for field in _FIELDS)
    patterns = [f"refs/tags/{artifact}@*", f"refs/tags/{artifact}#{STAGE}#*"]
    cells = _git(project, "for-each-ref", f"--format={form}", *patterns).split("\0")
    rows = [cells[start : start + len(_FIELDS)] for start in range(0, len(cells) - 1, len(_FIELDS))]
    tags = [(row[0].lstrip("\n").removeprefix(artifact), *row[2:]) for row in rows if row[1] == "commit"]
    versions = {name[1:]: commit for name, commit, *_ in tags if name[0] == "@" and VERSION.fullmatch(name[1:])}
    names = {commit: name for name, commit in sorted(versions.items(), key=lambda item: order(item[0]))}
    assigned = [
        Assignment(int(match[1]), names[commit], commit, _time(since), reason, details)
        for name, commit, since, reason, details in tags
        if (match := _ASSIGNED.fullmatch(name)) and commit in names
    ]
    return Registry(versions, sorted(assigned))


def tag_prefix(project: Path) -> str:
    """Return the beginning of the project's tags: the artifact, after the project's folder in its repository."""
    folder = _git(project, "rev-parse", "--show-prefix").strip().rstrip("/")
    return f"{folder}={ARTIFACT}" if folder else ARTIFACT


def order(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to sort by."""
    return tuple(map(int, version.removeprefix("v").split(".")))


def select(project: Path, model: str | None) -> Selected:
    """Return the network to predict with.

    Args:
        project: the folder of the project.
        model: a version, or the path of a file; None for the version in production, or else for the newest network.

    Raises:
        DataError: there is no such version, or its files cannot be fetched.
    """
    if model is not None and not VERSION.fullmatch(model):
        return Selected(Path(model), model)
    registry = read(project)
    if model is not None:
        if model not in registry.versions:
            known = ", ".join(sorted(registry.versions, key=order)) or "none"
            raise DataError(
                f"A version must be registered: {known}. Received: {model}. Run `git fetch --tags`, or "
                "`dogs-vs-cats promote --show` for those that were in production."
            )
        return Selected(_file(project, registry.versions[model], model), f"version {model}")
    if current := registry.production:
        file = _file(project, current.commit, current.version)
        return Selected(file, f"{current.version}, in production since {current.since:%Y-%m-%d %H:%M}")
    newest = project / paths.artifact("fine_tune", NETWORK)
    return Selected(newest, f"{newest}, the newest, as none is in production")


def folder(project: Path, commit: str) -> Path:
    """Return the folder for a commit's network, card and manifest; they are complete if it exists."""
    return project / paths.WORKSPACE_CACHE / "models" / commit


def _file(project: Path, commit: str, version: str) -> Path:
    """Return the network of a commit; a process of the project that knows DVC fetches it the first time."""
    file = folder(project, commit) / NETWORK
    if file.exists():
        return file
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "flows.models", commit]
    done = subprocess.run(  # noqa: S603 - no shell, and the project's own module
        command, cwd=project, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise DataError(f"The files of {version} cannot be fetched: {last}")
    return file


def _time(seconds: str) -> datetime:
    return datetime.fromtimestamp(int(seconds or 0)).astimezone()


def _git(project: Path, *arguments: str) -> str:
    """Return the output of Git in a folder; empty if it fails, as in a folder without a repository."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the project's own arguments
            ["git", *arguments],  # noqa: S607 - the user's Git
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout
