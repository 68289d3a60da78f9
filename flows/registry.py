"""Registry: put versions into production, and back, by annotated tags of Git in the form of GTO.

A tag's name has the next number, so of two processes that decide at once, on whatever machine, the second cannot create
it: the tags of a promotion are pushed together, without force, and the remote refuses a name that it has. Tags are
written as objects first and get their names only when the remote has them; HEAD, index and workspace stay untouched.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flows import experiments, git
from flows.git import GitError
from transfer.prediction import versions
from transfer.prediction.versions import Assignment, Registry
from transfer.runtime.errors import DataError

_FETCHES = 3  # two processes of one clone that fetch at once may be in each other's way


class OutdatedError(Exception):
    """Another process has put a version into production meanwhile."""


def read() -> Registry:
    """Read the registry of the project in the current folder, as far as this clone knows it."""
    return versions.read(Path())


def fetch() -> None:
    """Fetch the registry's tags from the Git remote, if there is one.

    Raises:
        GitError: the remote cannot be reached, or has another tag of a name that this clone has.
    """
    remote = experiments.git_remote()
    if remote is None:
        return
    artifact = versions.tag_prefix(Path())
    refs = [f"refs/tags/{artifact}{kind}*" for kind in ("@", f"#{versions.STAGE}#")]
    command = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, *(f"{ref}:{ref}" for ref in refs)]
    for attempt in range(_FETCHES):
        try:
            git.run(*command)
        except GitError:
            if attempt == _FETCHES - 1:
                raise
            time.sleep(attempt + 0.5)
        else:
            return


def promote(registry: Registry, commit: str, *, reason: str, details: str = "") -> str:
    """Put a commit's network into production, and register it as a version if it is none; return the version.

    Args:
        registry: as it was when the promotion was decided.
        commit: the saved run's.
        reason: a sentence.
        details: further text for the tag.

    Raises:
        OutdatedError: another process has put a version into production since the registry was read.
        GitError: Git or its remote failed; nothing is in production that was not before.
    """
    version = version_of(registry, commit)
    artifact = versions.tag_prefix(Path())
    number = registry.production.number + 1 if registry.production else 1
    tags = {f"{artifact}#{versions.STAGE}#{number}": _text(reason, details)}
    if version not in registry.versions:
        tags[f"{artifact}@{version}"] = f"Version {version}"
    _create({name: _tag(name, commit, text, _timestamp(registry)) for name, text in tags.items()})
    return version


def unshared() -> dict[str, str]:
    """Return the commits of tags that the Git remote lacks, by the tags' names; those made before there was a remote.

    Other tags, as those without a message, are the user's and are not pushed.

    Raises:
        GitError: the remote cannot be reached.
    """
    remote = experiments.git_remote()
    if remote is None:
        return {}
    prefix, known = f"refs/tags/{versions.tag_prefix(Path())}", read()
    tags = {f"{prefix}@{version}": commit for version, commit in known.versions.items()}
    tags |= {f"{prefix}#{versions.STAGE}#{each.number}": each.commit for each in known.assignments}
    if not tags:
        return {}
    shared = {line.split("\t")[1] for line in git.run("ls-remote", "--refs", remote, f"{prefix}*").splitlines()}
    return {name: commit for name, commit in tags.items() if name not in shared}


def share(tags: Iterable[str]) -> None:
    """Push tags to the Git remote, all or none.

    Raises:
        GitError: the remote refuses, or cannot be reached.
    """
    if (remote := experiments.git_remote()) and (refs := list(tags)):
        git.run("push", "--quiet", "--atomic", remote, *(f"{ref}:{ref}" for ref in refs))


def version_of(registry: Registry, commit: str) -> str:
    """Return a commit's version, or else the one after the highest; each promoted network is a major version."""
    registered = {known: version for version, known in registry.versions.items()}
    if commit in registered:
        return registered[commit]
    highest = max((versions.order(version)[0] for version in registry.versions), default=0)
    return f"v{highest + 1}.0.0"


def before(registry: Registry) -> str | None:
    """Return the version to roll back to: the one in production before the present one was promoted; None without one.

    A version that was rolled back does not count.
    """
    kept: list[str] = []
    for assignment in registry.assignments:
        if assignment.version in kept:
            del kept[kept.index(assignment.version) + 1 :]
        else:
            kept.append(assignment.version)
    return kept[-2] if len(kept) > 1 else None


def target(registry: Registry, version: str | None) -> str:
    """Return the version to roll back to.

    Args:
        registry: the registry.
        version: a version's name; None for the one before.

    Raises:
        DataError: there is no such version, or it is in production.
    """
    chosen = version or before(registry)
    if chosen is None:
        raise DataError("There must be an earlier version to roll back to. Received: none. See `promote --show`.")
    if chosen not in registry.versions:
        known = ", ".join(sorted(registry.versions, key=versions.order)) or "none"
        raise DataError(f"A version to roll back to must be registered: {known}. Received: {chosen}")
    if registry.production and chosen == registry.production.version:
        raise DataError(f"{chosen} is in production already. Name another version; see `promote --show`.")
    return chosen


def _create(tags: dict[str, str]) -> None:
    """Give tag objects their names, all or none, in the remote first."""
    refs = {f"refs/tags/{name}": tag for name, tag in tags.items()}
    remote = experiments.git_remote()
    try:
        if remote:
            git.run("push", "--quiet", "--atomic", remote, *(f"{tag}:{ref}" for ref, tag in refs.items()))
        else:
            _update(refs)
    except GitError:
        fetch()
        if _are(refs):  # the answer alone was lost
            return
        if any(_object(ref) for ref in refs):
            raise OutdatedError from None
        raise
    with suppress(GitError):  # the next fetch brings them
        if remote:
            _update(refs)


def _update(refs: dict[str, str]) -> None:
    commands = "".join(f"create {ref} {tag}\n" for ref, tag in refs.items())
    git.run("update-ref", "--stdin", stdin=f"start\n{commands}prepare\ncommit\n")


def _are(refs: dict[str, str]) -> bool:
    return all(_object(ref) == tag for ref, tag in refs.items())


def _object(ref: str) -> str:
    with suppress(GitError):
        return git.run("rev-parse", "--verify", "--quiet", ref)
    return ""


def _tag(name: str, commit: str, text: str, timestamp: int) -> str:
    """Write a tag as an object without a name; return its id."""
    identity = git.run("var", "GIT_COMMITTER_IDENT", environment=git.identity()).rsplit(" ", 2)[0]
    header = f"object {commit}\ntype commit\ntag {name}\ntagger {identity} {timestamp} +0000\n"
    return git.run("mktag", stdin=f"{header}\n{text}\n")


def _timestamp(registry: Registry) -> int:
    """Return the present time, but later than that of the last tag: GTO and DVC sort tags by their times in seconds."""
    known: Iterable[Assignment] = registry.assignments
    return max([int(time.time()), *(int(assignment.since.timestamp()) + 1 for assignment in known)])


def _text(reason: str, details: str) -> str:
    return f"{reason}\n\n{details}" if details else reason
