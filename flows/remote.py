"""Remote: exchange data, models and earlier runs with other clones through DVC's remote.

`dvc push --run-cache` sends the records of earlier runs without their outputs, and `dvc repro --pull` skips a stage
whose outputs are missing once it has pulled those that DVC caches: metrics and histories stay missing (DVC 3.67). So
another clone would repeat a run. The functions here push and pull an earlier run with all its outputs.

`python -m flows.remote push` sends what the remote lacks.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

from dvc.exceptions import CollectCacheError, DvcException
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, RunCacheNotSupported
from dvc.stage.decorators import rwlocked

from transfer.runtime.errors import ParamsError


def push() -> int:
    """Push the workspace's data, and all earlier runs with their outputs.

    A remote over HTTP takes no records of runs, so no earlier runs are sent there.

    Returns:
        How many files of data were sent.

    Raises:
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    with Repo(os.curdir) as repo:
        sent = int(repo.push())
        with repo.lock, suppress(RunCacheNotSupported):
            outputs: set[Any] = set()
            for run in repo.stage_cache.push(None):
                with suppress(CollectCacheError):  # its outputs were garbage collected
                    outputs.update(*repo.stage_cache.get_used_objs([run]).values())
            sent += len(repo.cloud.push(outputs).transferred)
    return sent


def check_shared(git_remote: str | None) -> None:
    """Check that what Git shares can be shared by DVC, too.

    Raises:
        ParamsError: Git has a remote, DVC has none.
    """
    with Repo(os.curdir) as repo:
        if git_remote and not repo.config["core"].get("remote"):
            raise ParamsError(
                f"DVC must have a remote, as Git has one, `{git_remote}`: a version that others know needs its data. "
                "Received: none. Run `dvc remote add -d store ADDRESS` once; or, if that is the project you cloned "
                f"and no repository of yours, `git remote rename {git_remote} upstream`."
            )


def push_revision(commit: str, needed: Iterable[str], log: Callable[[str], None]) -> None:
    """Push the data of a commit to DVC's remote, if there is one, and check that it has the files that are needed.

    Args:
        commit: the commit.
        needed: paths of outputs of single files.
        log: called with a message about the files that were sent.

    Raises:
        DvcException: the remote refuses, cannot be reached, or lacks a needed file.
    """
    with Repo(os.curdir) as repo:
        if not repo.config["core"].get("remote"):
            return
        sent = int(repo.push(revs=[commit], workspace=False))
        log(f"{sent} files pushed to DVC's remote.")
    with Repo(os.curdir, rev=commit) as repo:
        store = repo.cloud.get_remote_odb()
        missing = [path for path in needed if not store.exists(repo.dvcfs.info(path)["dvc_info"]["md5"])]
    if missing:
        raise DvcException(f"DVC's remote must have {', '.join(missing)} of commit {commit[:10]}. Received: none.")


def push_experiment(name: str, git_remote: str) -> None:
    """Push an experiment to a remote of Git, without its data.

    Raises:
        DvcException: there is no such experiment, the remote has another of that name, or it cannot be reached.
    """
    with Repo(os.curdir) as repo:
        if repo.experiments.push(git_remote, [name], push_cache=False).get("diverged"):
            raise DvcException(f"`{git_remote}` already has another experiment `{name}`.")


def pull(stage: str) -> Literal["cache", "remote"] | None:
    """Restore the outputs of an earlier run of a stage with the same inputs, whichever clone ran it.

    Args:
        stage: its name; its inputs are in the workspace.

    Returns:
        The place of that run: DVC's local cache or its remote; None if neither has one or the stage is up to date.

    Raises:
        LockError: another process of DVC works on the stage.
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    with Repo(os.curdir) as repo, repo.lock:
        if not any(found.changed() for found in repo.stage.collect(stage)):
            return None
    if _restored(stage, pull=False):
        return "cache"
    with Repo(os.curdir) as repo, repo.lock, suppress(RunCacheNotSupported):
        records = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
        repo.stage_cache.transfer(records, repo.cache.legacy, force=False)
    return "remote" if _restored(stage, pull=True) else None


def _restored(name: str, *, pull: bool) -> bool:
    with Repo(os.curdir) as repo, repo.lock:
        (stage,) = repo.stage.collect(name)  # loaded again each time, as an attempt to restore a stage changes it
        try:
            _restore(stage, pull=pull)
        except RunCacheNotFoundError:
            return False
    return True


@rwlocked(read=["deps"], write=["outs"])  # type: ignore[untyped-decorator] # refuses while another DVC works on them
def _restore(stage: Any, *, pull: bool) -> None:
    stage.remove_outs(force=False)  # as DVC does before it runs a stage: incomplete or edited outputs are in the way
    stage.repo.stage_cache.restore(stage, pull=pull)


def one_line(error: BaseException) -> str:
    """Return the messages of an error and of its causes in one line."""
    messages = []
    cause: BaseException | None = error
    while cause:
        messages.append(" ".join(str(cause).split()) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(messages)


def main() -> None:
    """Push what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description="Exchange runs with DVC's remote.")
    push_parser = parser.add_subparsers(required=True).add_parser("push", help="send what the remote lacks")
    push_parser.add_argument(
        "--experiment", nargs=2, metavar=("NAME", "REMOTE"), help="send an experiment to a remote of Git, too"
    )
    arguments = parser.parse_args()
    try:
        print(f"{push()} files pushed.")
        if arguments.experiment:
            push_experiment(*arguments.experiment)
            print(f"Experiment {arguments.experiment[0]} pushed.")
    except Exception as error:  # noqa: BLE001 - each kind of remote has errors of its own
        sys.exit(one_line(error))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
