"""Experiments: a run's results kept under its name, as `dvc exp` lists them, compares them and has them back.

An experiment of DVC is a commit on top of a baseline, at `refs/exps/<baseline's id, cut after two letters>/<name>`
(dvc.org, "Experiment management"). `dvc exp save` would stash the workspace, reset it and commit every stage as it
stands, also one that is due, which would then pass for up to date. Here the commit is made beside the workspace, from
a copy of Git's index: no file, no branch and no entry of dvc.lock is touched, whenever the process is killed.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dvc.repo import Repo

_TRAILER = "Flow-run"


class GitError(Exception):
    """Git refused; the text is what it said."""


@dataclass(frozen=True)
class Saved:
    """A saved run: the experiment's name and its commit."""

    name: str
    commit: str


class Difference(NamedTuple):
    """A metric or param before and now; None where there was or is none."""

    file: str
    name: str
    before: Any
    now: Any


def baseline() -> str | None:
    """The commit that experiments start from; None without a commit, or where DVC uses no Git."""
    with Repo(os.curdir) as repo:
        if repo.config["core"].get("no_scm"):
            return None
    try:
        return _git("rev-parse", "--verify", "HEAD")
    except (GitError, FileNotFoundError):
        return None


def save(name: str, files: Iterable[Path], *, run: str | None = None, folder: Path = Path()) -> Saved:
    """Keep the workspace as it stands as an experiment.

    Args:
        name: what to call it; what Git does not allow becomes dashes.
        files: to keep besides those that Git knows: dvc.lock, metrics, histories.
        run: the flow run's id, which is added to a name that is taken; without it, the experiment of the name is
            replaced.
        folder: where the files are taken from, at the paths they have in the workspace.

    Raises:
        GitError: Git cannot write the commit.
    """
    head = _git("rev-parse", "--verify", "HEAD")
    message = f"Flow run {name}\n\n{_TRAILER}: {run}" if run else name
    commit = _git("commit-tree", _tree(files, folder), "-p", head, "-m", message, environment=_identity())
    proper = allowed(name)
    listed = _git("for-each-ref", "--format=%(refname) %(refname:lstrip=4)", "refs/exps").splitlines()
    taken = [ref for ref, _, known in (line.partition(" ") for line in listed) if known == proper]
    if run is None:
        for ref in taken:
            _git("update-ref", "-d", ref)
    saved = Saved(f"{proper}-{run[:8]}" if taken and run else proper, commit)
    _git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{saved.name}", commit, "")
    return saved


def allowed(name: str) -> str:
    """A name as Git allows it; others may become the same."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "run"


def latest() -> Saved | None:
    """The run that was saved last, whatever it started from."""
    form = f"%(objectname) %(refname:lstrip=4) %(contents:trailers:key={_TRAILER},valueonly,separator=%2C)"
    listed = _git("for-each-ref", "--sort=-committerdate", f"--format={form}", "refs/exps")
    fields = [line.split(" ") for line in listed.splitlines()]
    return next((Saved(*reversed(found[:2])) for found in fields if len(found) == 3 and all(found)), None)


def differences(kind: Literal["metrics", "params"], commit: str, *, everything: bool) -> list[Difference]:
    """Metrics or params of a commit beside those of the workspace.

    Args:
        kind: which.
        commit: what to compare with.
        everything: also what is the same.
    """
    with Repo(os.curdir) as repo:
        found = getattr(repo, kind).diff(a_rev=commit, all=everything).get("diff", {})
    return [
        Difference(file, name, change.get("old"), change.get("new"))
        for file, changes in found.items()
        for name, change in changes.items()
    ]


def uncommitted() -> list[str]:
    """Files that Git knows and that differ from HEAD, but for what stages write."""
    return _git("diff", "--name-only", "--relative", "HEAD", "--", ".", ":!dvc.lock", ":!artifacts").splitlines()


def unknown(files: Iterable[Path]) -> list[str]:
    """Those of these files that Git neither knows nor ignores, so that no experiment holds them."""
    return _git("ls-files", "--others", "--exclude-standard", "--", *map(str, files)).splitlines()


def git_remote() -> str | None:
    """Where experiments are pushed to: `origin`, or the only remote there is."""
    remotes = _git("remote").splitlines()
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else None


def _tree(files: Iterable[Path], folder: Path) -> str:
    """Write the workspace, with these files of a folder, as a tree of Git, through a copy of the index."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        current = Path(_git("rev-parse", "--path-format=absolute", "--git-path", "index"))
        if current.exists():
            shutil.copyfile(current, index)
        beside = {"GIT_INDEX_FILE": str(index)}
        _git("add", "--update", "--", ".", environment=beside)
        if kept := [path for path in files if (folder / path).exists()]:
            prefix = _git("rev-parse", "--show-prefix")
            blobs = _git("hash-object", "-w", "--", *(str(folder / path) for path in kept)).splitlines()
            entries = [f"100644,{blob},{prefix}{path.as_posix()}" for path, blob in zip(kept, blobs, strict=True)]
            cacheinfo = [argument for entry in entries for argument in ("--cacheinfo", entry)]
            _git("update-index", "--add", *cacheinfo, environment=beside)
        return _git("write-tree", environment=beside)


def _identity() -> dict[str, str]:
    """Who commits: whoever Git is set up for, or the project's own name on a server where that is nobody."""
    try:
        _git("config", "user.email")
    except GitError:
        name = "dogs-vs-cats"
        return {f"GIT_{who}_{what}": name for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {}


def _git(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(  # noqa: S603 - no shell, and arguments of our own
        ["git", "-c", "core.quotePath=false", *arguments],  # noqa: S607 - whichever Git is the user's
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise GitError(f"`git {arguments[0]}` failed: {result.stderr.strip()}")
    return result.stdout.strip()
