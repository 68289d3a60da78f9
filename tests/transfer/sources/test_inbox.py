import os
import socket
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from transfer.runtime.errors import DataError
from transfer.sources import inbox


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for name in ("cat/1.jpg", "dog/1.jpg", "dog/.hidden/2.jpg"):
        (tmp_path / "inbox" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "inbox" / name).touch()
    return tmp_path / "inbox"


def test_files_and_folders_are_found_at_any_depth(folder: Path) -> None:
    """Hidden ones are found too, and links to files are files."""
    (folder / "cat" / "2.jpg").symlink_to(folder / "cat" / "1.jpg")
    content = inbox.scan(folder)
    assert [str(path) for path in content.files] == ["cat/1.jpg", "cat/2.jpg", "dog/.hidden/2.jpg", "dog/1.jpg"]
    assert content.folders == [PurePosixPath("cat"), PurePosixPath("dog"), PurePosixPath("dog/.hidden")]
    assert inbox.scan(folder / "missing") == inbox.Content([], [])


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the path of a socket is short
        server.bind(path.name)


@pytest.mark.reliability(
    "photographs", "a pipe, a device or a link to one in the inbox", "exit 65 within seconds; the message has its name"
)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (_socket, "a socket"),
        (_link("/dev/zero"), "a link to a device"),
        (_link("nothing"), "a link to nothing"),
        (_link("9.jpg"), "a link to nothing"),
    ],
    ids=["pipe", "socket", "device", "nothing", "itself"],
)
@pytest.mark.parametrize("name", ["cat/9.jpg", "9.h5", "dog/.9"])
def test_file_that_is_not_regular_is_refused(
    folder: Path, make: Callable[[Path], None], kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may never end is not opened."""
    monkeypatch.chdir(folder)
    start = time.monotonic()
    make(folder / name)
    with pytest.raises(DataError, match=rf"files and folders only\. Received: `{folder}/{name}`, {kind}\."):
        inbox.check(folder)
    assert time.monotonic() - start < 5


@pytest.mark.reliability(
    "photographs",
    "a `.dvc` or `.dvcignore` in the inbox",
    "exit 65; the message has it: DVC would not notice changes of photographs",
)
@pytest.mark.parametrize("name", ["cat/.dvc/", "dog/.dvcignore", ".dvc/", "cat/more/.dvcignore"])
def test_folder_that_dvc_passes_over_is_refused(folder: Path, name: str) -> None:
    """DVC takes a folder with `.dvc` for another project, and leaves out what `.dvcignore` has."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).mkdir() if name.endswith("/") else (folder / name).touch()
    with pytest.raises(DataError, match=rf"passes over files because of `.*/{name.rstrip('/')}`"):
        inbox.check(folder)


def test_linked_folder_is_refused(folder: Path) -> None:
    """DVC does not follow a link to a folder; the inbox itself may be one."""
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    inbox.check(folder.parent / "link")
    (folder / "bird").symlink_to(folder / "cat", target_is_directory=True)
    with pytest.raises(DataError, match=r"Received: the link `.*/inbox/bird`\. Move or copy"):
        inbox.check(folder)
