"""Git: run its program, with an identity for commits and tags also where the user has configured none."""

import os
import subprocess
from collections.abc import Mapping


class GitError(Exception):
    """Git failed; the text has its message."""


def identity() -> dict[str, str]:
    """Return variables of author and committer: the project's name for each field that Git's configuration lacks."""
    missing = [field for field in ("name", "email") if not _configured(f"user.{field}")]
    names = [f"GIT_{role}_{field.upper()}" for role in ("AUTHOR", "COMMITTER") for field in missing]
    return {name: "dogs-vs-cats" for name in names if not os.environ.get(name)}


def _configured(name: str) -> str:
    try:
        return run("config", name)
    except GitError:
        return ""


def run(*arguments: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """Run Git in the current folder.

    Args:
        *arguments: the subcommand and its arguments.
        environment: more variables.
        stdin: its standard input.

    Returns:
        Its standard output, without space at either end.

    Raises:
        GitError: it failed.
        FileNotFoundError: there is no program `git`.
    """
    result = subprocess.run(  # noqa: S603 - no shell, and the project's own arguments
        ["git", "-c", "core.quotePath=false", *arguments],  # noqa: S607 - the user's Git
        env={**os.environ, **(environment or {})},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise GitError(f"`git {arguments[0]}` failed: {result.stderr.strip()}")
    return result.stdout.strip()
