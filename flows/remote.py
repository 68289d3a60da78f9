"""Remote: data, models and earlier runs, exchanged with other clones through DVC's remote.

`dvc push --run-cache` sends the records of earlier runs without what they made, and `dvc repro --pull` takes a stage
whose outputs are missing for done once it has brought those that DVC caches: metrics and histories stay missing
(DVC 3.67). So another clone would run again what has been run. Here an earlier run is sent and brought whole.

`python -m flows.remote push` sends what the remote does not have, `python -m flows.remote pull STAGE` brings one stage.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

from dvc.exceptions import CollectCacheError
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, RunCacheNotSupported

_BROUGHT = re.compile(r"Brought from DVC's (\w+)\.")


def push() -> int:
    """Send what the remote does not have of the workspace and of all earlier runs, and the records of these.

    A remote over HTTP takes no records, and so none of the earlier runs.

    Returns:
        How many files of data were sent.

    Raises:
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    with Repo(os.curdir) as repo:
        sent = int(repo.push())
        with repo.lock, suppress(RunCacheNotSupported):
            made: set[Any] = set()
            for run in repo.stage_cache.push(None):
                with suppress(CollectCacheError):  # garbage collected
                    made.update(*repo.stage_cache.get_used_objs([run]).values())
            sent += len(repo.cloud.push(made).transferred)
    return sent


def pull(stage: str) -> Literal["cache", "remote"] | None:
    """Bring what an earlier run of a stage made from the same inputs, whichever clone ran it.

    Args:
        stage: its name; it is due, and what it needs is in the workspace.

    Returns:
        Where that was, here in DVC's cache or in its remote; its outputs are in the workspace now. None: nowhere.

    Raises:
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    if _restored(stage, pull=False):
        return "cache"
    with Repo(os.curdir) as repo, repo.lock, suppress(RunCacheNotSupported):
        runs = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
        repo.stage_cache.transfer(runs, repo.cache.legacy, force=False)
    return "remote" if _restored(stage, pull=True) else None


def _restored(stage: str, *, pull: bool) -> bool:
    with Repo(os.curdir) as repo, repo.lock:
        (found,) = repo.stage.collect(stage)  # anew each time: trying to restore a stage changes what is known of it
        # as DVC does before it runs a stage: what is half written or edited is in the way
        found.remove_outs(force=False)
        try:
            repo.stage_cache.restore(found, pull=pull)
        except RunCacheNotFoundError:
            return False
    return True


def brought(said: Iterable[str]) -> str | None:
    """Where `python -m flows.remote pull` found an earlier run, according to the lines it said."""
    return next((match[1] for line in said if (match := _BROUGHT.fullmatch(line))), None)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description="Exchange runs with DVC's remote.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("push", help="send what the remote does not have")
    actions.add_parser("pull", help="bring a stage that another clone has run").add_argument("stage")
    given = parser.parse_args()
    try:
        if given.action == "push":
            print(f"{push()} files pushed.")
        elif place := pull(given.stage):
            print(f"Brought from DVC's {place}.")
    except Exception as error:  # noqa: BLE001 - each kind of remote has errors of its own
        sys.exit(f"ERROR: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
