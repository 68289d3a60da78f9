"""Experiments: save a run's results under its name, for `dvc exp` to list, compare and restore.

An experiment of DVC is a commit on top of a baseline, at `refs/exps/<baseline's id, cut after two letters>/<name>`
(dvc.org, "Experiment management"). `dvc exp save` would stash the workspace, reset it and commit every stage, also one
that is due, which would then count as up to date. Here a copy of Git's index makes the commit: no file, no branch and
no entry of dvc.lock changes, even if the process is killed.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dvc.repo import Repo

from flows import git
from flows.git import GitError
from transfer.runtime import paths

_TRAILER = "Flow-run"
_OUTPUTS = (":!dvc.lock", ":!baselines/dvc.lock", ":!artifacts")  # patterns of Git that leave out what stages write


@dataclass(frozen=True)
class Saved:
    """A saved run: the experiment's name and its commit."""

    name: str
    commit: str


class Difference(NamedTuple):
    """A metric or parameter before and now; None if it did not or does not exist."""

    file: str
    name: str
    before: Any
    now: Any


def baseline() -> str | None:
    """Return the commit that experiments start from; None without a commit, or if DVC does not use Git."""
    if _dvc_uses_git():
        with suppress(GitError, FileNotFoundError):
            return git.run("rev-parse", "--verify", "HEAD")
    return None


def obstacle() -> str:
    """Return the reason why no experiment can be saved, and what to do; empty if one can be saved."""
    needed = "experiments need a Git repository with a commit."
    if not _dvc_uses_git():
        return needed
    try:
        git.run("rev-parse", "--verify", "HEAD")
    except FileNotFoundError:
        return f"{needed} Received: no program `git`. Install it."
    except GitError as error:
        if trust := re.search(r"git config --global --add safe\.directory .+", str(error)):
            return f"the repository belongs to another user, and Git refuses it. Run `{trust[0]}`."
        return f"{needed} Run `git add . && git commit -m Start` once."
    return ""


def _dvc_uses_git() -> bool:
    with Repo(os.curdir) as repo:
        return not repo.config["core"].get("no_scm")


def save(name: str, files: Iterable[Path], *, run: str | None = None, folder: Path = Path()) -> Saved:
    """Save the workspace in its present state as an experiment.

    Args:
        name: the experiment's name; characters that Git does not allow become dashes.
        files: files to save besides those that Git tracks: dvc.lock, metrics, histories.
        run: the flow run's id, which is appended to a name that exists; without it, the experiment of that name is
            replaced.
        folder: the folder with these files, at the paths they have in the workspace.

    Raises:
        GitError: Git cannot write the commit.
    """
    head = git.run("rev-parse", "--verify", "HEAD")
    message = f"Flow run {name}\n\n{_TRAILER}: {run}" if run else name
    environment = git.identity() | _date()
    commit = git.run("commit-tree", _tree(files, folder), "-p", head, "-m", message, environment=environment)
    proper = allowed(name)
    existing = _refs_of(proper)
    if run is None:
        for earlier in existing:
            git.run("update-ref", "-d", earlier)
    saved = Saved(f"{proper}-{run[:8]}" if existing and run else proper, commit)
    git.run("update-ref", ref(saved.name, head), commit, "")
    return saved


def _date() -> dict[str, str]:
    """Return the variable of Git that dates a commit later than every experiment, also one of the same second."""
    newest = git.run(
        "for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(committerdate:unix)", "refs/exps"
    )
    date = max(int(time.time()), int(newest or 0) + 1)
    return {} if os.environ.get("GIT_COMMITTER_DATE") else {"GIT_COMMITTER_DATE": f"@{date} +0000"}


def ref(name: str, baseline: str) -> str:
    """Return the reference of an experiment that starts from a commit."""
    return f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"


def send(saved: Saved, remote: str, baseline: str) -> None:
    """Send an experiment to a remote of Git, in place of another of its name and baseline."""
    git.run("push", "--quiet", remote, f"+{saved.commit}:{ref(saved.name, baseline)}")


def present(names: Iterable[str], baseline: str) -> dict[str, str]:
    """Return the commits of the experiments of these names and this baseline that exist here, by name."""
    wanted = {ref(name, baseline): name for name in names}
    found = git.run("for-each-ref", "--format=%(refname) %(objectname)", ref("", baseline)).splitlines()
    entries = (line.split() for line in found)
    return {wanted[reference]: commit for reference, commit in entries if reference in wanted}


def fetch(names: Iterable[str], remote: str, baseline: str) -> dict[str, str]:
    """Fetch the experiments of these names and this baseline that a remote of Git has; references here do not change.

    Returns:
        Their commits by name.
    """
    wanted = {ref(name, baseline): name for name in names}
    listed = (line.split() for line in git.run("ls-remote", remote, ref("*", baseline)).splitlines())
    found = {reference: commit for commit, reference in listed if reference in wanted}
    if found:
        git.run("fetch", "--quiet", "--no-tags", remote, *found)
    return {wanted[reference]: commit for reference, commit in found.items()}


def keep(saved: Saved, baseline: str) -> None:
    """Keep a fetched experiment here, in place of another of its name and baseline."""
    git.run("update-ref", ref(saved.name, baseline), saved.commit)


def read(commit: str, path: Path) -> str:
    """Return the content of a file in a commit, without space at either end.

    Raises:
        GitError: the commit has no such file.
    """
    return git.run("show", f"{commit}:./{path.as_posix()}")


def changed(files: Iterable[str], commit: str | None = None) -> list[str]:
    """Return the files, among these files and folders, that differ from the commit that an experiment starts from.

    Args:
        files: paths relative to the project's folder.
        commit: the experiment's; None for the workspace, with files that Git neither tracks nor ignores.
    """
    between = [f"{commit}^", commit] if commit else ["HEAD"]
    differing = git.run("diff", "--name-only", "--relative", *between, "--", *files).splitlines()
    return differing if commit else [*differing, *untracked(map(Path, files))]


def _refs_of(name: str) -> list[str]:
    listed = git.run("for-each-ref", "--format=%(refname) %(refname:lstrip=4)", "refs/exps").splitlines()
    return [ref for ref, _, experiment in (line.partition(" ") for line in listed) if experiment == name]


def allowed(name: str) -> str:
    """Replace the characters that Git does not allow in a name; two names may become the same."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "run"


def latest() -> Saved | None:
    """Return the flow run that was saved last, from any baseline; None if there is none."""
    form = f"%(objectname) %(refname:lstrip=4) %(contents:trailers:key={_TRAILER},valueonly,separator=%2C)"
    listed = git.run("for-each-ref", "--sort=-committerdate", f"--format={form}", "refs/exps")
    fields = [line.split(" ") for line in listed.splitlines()]
    complete = (entry for entry in fields if len(entry) == 3 and all(entry))  # others are not flow runs
    return next((Saved(name, commit) for commit, name, _ in complete), None)


def find(name: str) -> Saved | None:
    """Return the experiment of a name, the one that was saved last if there are several; None if there is none."""
    listed = git.run("for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps")
    entries = (line.partition(" ") for line in listed.splitlines())
    return next((Saved(name, commit) for commit, _, experiment in entries if experiment == name), None)


def differences(kind: Literal["metrics", "params"], commit: str, *, everything: bool) -> list[Difference]:
    """Compare metrics or parameters of a commit with those of the workspace; those of the baselines are left out.

    Args:
        kind: which of them to compare.
        commit: the commit to compare with.
        everything: whether to include those that are equal.
    """
    with Repo(os.curdir) as repo:
        found = getattr(repo, kind).diff(a_rev=commit, all=everything).get("diff", {})
        outputs = {out.def_path for stage in repo.stage.collect("dvc.yaml") for out in stage.outs}
    return [
        Difference(file, name, change.get("old"), change.get("new"))
        for file, changes in found.items()
        if file in outputs | {str(paths.PARAMS)}
        for name, change in changes.items()
    ]


def uncommitted() -> list[str]:
    """Return the tracked files that differ from HEAD, except outputs of stages."""
    return git.run("diff", "--name-only", "--relative", "HEAD", "--", ".", *_OUTPUTS).splitlines()


def untracked(files: Iterable[Path]) -> list[str]:
    """Return those of these files that Git neither tracks nor ignores, so that no experiment contains them."""
    return git.run("ls-files", "--others", "--exclude-standard", "--", *map(str, files)).splitlines()


def git_remote() -> str | None:
    """Return the remote that experiments and versions are pushed to: `origin`, or the only remote; None without one.

    `upstream` is, by custom, the project that a user's repository was copied from, and takes nothing.
    """
    remotes = [name for name in git.run("remote").splitlines() if name != "upstream"]
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else None


def _tree(files: Iterable[Path], folder: Path) -> str:
    """Write a Git tree of the workspace and of these files of a folder, through a copy of the index; return its id."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        current = Path(git.run("rev-parse", "--path-format=absolute", "--git-path", "index"))
        if current.exists():
            shutil.copyfile(current, index)
        copied = {"GIT_INDEX_FILE": str(index)}
        git.run("add", "--update", "--", ".", environment=copied)
        if existing := [path for path in files if (folder / path).exists()]:
            prefix = git.run("rev-parse", "--show-prefix")
            blobs = git.run("hash-object", "-w", "--", *(str(folder / path) for path in existing)).splitlines()
            entries = [f"100644,{blob},{prefix}{path.as_posix()}" for path, blob in zip(existing, blobs, strict=True)]
            cacheinfo = [argument for entry in entries for argument in ("--cacheinfo", entry)]
            git.run("update-index", "--add", *cacheinfo, environment=copied)
        return git.run("write-tree", environment=copied)
