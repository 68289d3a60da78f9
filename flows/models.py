"""Models: the network of a commit with its card and its manifest, fetched by the hashes in that commit's dvc.lock.

The workspace, Git's HEAD and index, and DVC's state stay as they are: files are copied from DVC's cache, or else from
its remote, into `.cache/models/<commit>/`. `python -m flows.models COMMIT` does that as a process.
"""

import argparse
import os
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows import processes, remote
from transfer.network.card import read_card
from transfer.prediction import versions
from transfer.runtime import files, paths
from transfer.runtime.errors import DataError

FILES = {
    versions.NETWORK: paths.artifact("fine_tune", versions.NETWORK),
    "model.json": paths.artifact("fine_tune", "model.json"),
    "manifest.csv": paths.artifact("split", "manifest.csv"),
}
ROWS = paths.artifact("fine_tune", "rows.npz")  # of the training photographs, by which it answers "none of these"


def fetch(commit: str) -> Path:
    """Fetch the files of a commit's network, unless they are there; return their folder.

    Raises:
        DataError: the commit has no network as this project trains it, or neither DVC's cache nor its remote has it.
    """
    folder = versions.folder(Path(), commit)
    if folder.exists():
        return folder
    with files.atomic_folder(folder) as temporary, Repo(os.curdir, rev=commit) as repo:
        _check_artifact(repo, commit)
        for name, path in FILES.items():
            _fetch(repo, path, temporary / name, commit)
        if read_card(temporary / "model.json", hint="Run the pipeline again.").thresholds:  # earlier networks have none
            _fetch(repo, ROWS, temporary / ROWS.name, commit)
    return folder


def needed(commit: str) -> list[str]:
    """Return the paths of the files that predictions and verdicts of a commit's network need."""
    with Repo(os.curdir, rev=commit) as repo:
        optional = [ROWS] if repo.dvcfs.exists(ROWS.as_posix()) else []  # which earlier networks have not
    return [path.as_posix() for path in (*FILES.values(), *optional)]


def _check_artifact(repo: Repo, commit: str) -> None:
    """Check that a commit's dvc.yaml has the artifact, without which `dvc artifacts get` would not find a version."""
    try:
        artifacts = repo.artifacts.read().get("dvc.yaml", {})
    except DvcException as error:
        raise DataError(f"Commit {commit[:10]} must have a readable dvc.yaml. Received: {error}") from None
    expected = FILES[versions.NETWORK].as_posix()
    if versions.ARTIFACT not in artifacts or artifacts[versions.ARTIFACT].path != expected:
        raise DataError(
            f"dvc.yaml of commit {commit[:10]} must have the artifact `{versions.ARTIFACT}` with the path {expected}. "
            "Received: none. Commit the present dvc.yaml, and run the pipeline again."
        )


def _fetch(repo: Repo, path: Path, target: Path, commit: str) -> None:
    """Copy a file of a commit.

    Raises:
        DataError: neither DVC's cache nor its remote has it, or it is damaged.
    """
    try:
        _copy(repo, path, target)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of remote has errors of its own
        raise DataError(
            f"`{path}` of commit {commit[:10]} must be in DVC's cache or its remote. Received: "
            f"{remote.one_line(error)}. Check the remote, or push it from the clone that saved the run."
        ) from None


def _copy(repo: Repo, path: Path, target: Path) -> None:
    """Copy a file of a revision, and check it against the hash in dvc.lock."""
    fs = repo.dvcfs
    source = path.as_posix()
    expected = fs.info(source)["dvc_info"]["md5"]
    fs.get_file(source, str(target))
    received = files.digest(target, "md5")
    if received != expected:
        raise DataError(
            f"`{path}` must have the MD5 of dvc.lock, {expected}. Received: {received}. DVC's cache or its remote is "
            "damaged: delete that file there, and push it from the clone that saved the run."
        )


def main() -> None:
    """Fetch the network of the commit that the command line names, and print its path."""
    parser = argparse.ArgumentParser(prog="python -m flows.models", description="Fetch a promoted network.")
    parser.add_argument("commit", metavar="COMMIT", help="its commit, 40 hexadecimal digits")
    print(fetch(parser.parse_args().commit) / versions.NETWORK)


if __name__ == "__main__":
    processes.exit_with(main)
