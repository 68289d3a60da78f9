"""Remote: data, models and earlier runs, exchanged with other clones through DVC's remote.

`dvc push --run-cache` sends the records of earlier runs without what they made, and `dvc repro --pull` takes a stage
whose outputs are missing for done once it has brought those that DVC caches: metrics and histories stay missing
(DVC 3.67). So another clone would run again what has been run. Here an earlier run is sent and brought whole.

`python -m flows.remote push` sends what the remote does not have, `python -m flows.remote pull STAGE` brings one stage.
"""

import argparse
import os
import sys

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError

BROUGHT = "Brought from the remote."


def push() -> int:
    """Send what the remote does not have of the workspace and of all earlier runs; how many files those were.

    Raises:
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    with Repo(os.curdir) as repo:
        sent = int(repo.push())
        with repo.lock:
            runs = repo.stage_cache.push(None)
            for objects in repo.stage_cache.get_used_objs(runs).values():
                sent += len(repo.cloud.push(objects).transferred)
    return sent


def pull(stage: str) -> bool:
    """Bring what an earlier run of a stage made from the same inputs, whichever clone ran it.

    Args:
        stage: its name; what it needs is in the workspace.

    Returns:
        Whether there was such a run; its outputs are in the workspace now.

    Raises:
        DvcException: there is no remote, it refuses, or it cannot be reached.
    """
    with Repo(os.curdir) as repo, repo.lock:
        (found,) = repo.stage.collect(stage)
        runs = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
        repo.stage_cache.transfer(runs, repo.cache.legacy, force=False)
        try:
            repo.stage_cache.restore(found, pull=True)
        except RunCacheNotFoundError:
            return False
    return True


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
        elif pull(given.stage):
            print(BROUGHT)
    except (DvcException, OSError) as error:
        sys.exit(f"ERROR: {error}")


if __name__ == "__main__":
    main()
