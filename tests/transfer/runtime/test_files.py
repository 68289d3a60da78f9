import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from transfer.runtime import files


def names(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Until the block ends the file does not exist; then its folder holds nothing else."""
    target = tmp_path / "deep" / "file.bin"
    with files.atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["file.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A block that fails changes nothing and leaves no temporary file."""
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with files.atomic_write(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    """A forgotten write does not go unnoticed."""
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "file.txt"):
        pass


def test_two_writers_of_one_file_do_not_share_a_temporary_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, or two containers with the same host name and process number, each write a file of their own."""
    target = tmp_path / "file"
    with files.atomic_write(target) as first, files.atomic_write(target) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    monkeypatch.setattr(files, "_NUMBERS", iter([0, 0]))
    with files.atomic_write(target) as ours:
        ours.write_text("ours")
    monkeypatch.setattr(files, "_TOKEN", "0123abcd")
    with files.atomic_write(target) as theirs:
        theirs.write_text("theirs")
    assert ours != theirs
    assert names(tmp_path) == ["file"]


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    """No file of the old folder remains among the new files."""
    target = tmp_path / "photos"
    (target / "cat").mkdir(parents=True)
    (target / "cat" / "old.jpg").touch()
    with files.atomic_folder(target) as temporary:
        (temporary / "new.jpg").touch()
        assert names(target) == ["cat"]
    assert names(target) == ["new.jpg"]
    assert names(tmp_path) == ["photos"]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    """A stage that fails while it writes keeps its last results."""
    target = tmp_path / "photos"
    target.mkdir()
    (target / "old.jpg").touch()

    def fail() -> None:
        with files.atomic_folder(target) as temporary:
            (temporary / "half.jpg").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(target) == ["old.jpg"]
    assert names(tmp_path) == ["photos"]


KILLED = """
import os, signal
from pathlib import Path
from transfer.runtime import files
with files.atomic_folder(Path("photos")) as temporary:
    (temporary / "half.jpg").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


REMOVING = """
import os, shutil, signal
from pathlib import Path
from transfer.runtime import files
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
files.remove_folder(Path("state"))
"""


def temporary_of(process: int, path: Path, *, host: str = "") -> Path:
    """Return a temporary path of another process for `path`; `host` is this one unless given."""
    with files.atomic_write(path.with_name("any")) as temporary:
        temporary.touch()
    path.with_name("any").unlink()
    _, _, here, _, _ = temporary.name.split(".")
    return path.with_name(f".{path.name}.{host or here}.{process}.0123abcd0")


def ended() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def killed(program: str, folder: Path) -> bool:
    """Return whether a program, run in a folder, was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=False).returncode < 0


@pytest.mark.reliability(
    "killed", "killed again and again", "the next run removes temporary files: the disk does not fill"
)
def test_the_next_run_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    """A stage that is killed again and again does not fill the disk."""
    assert killed(KILLED, tmp_path)
    assert len(names(tmp_path)) == 1
    with files.atomic_folder(tmp_path / "photos"):
        pass
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize("process", ["ended", "this"])
def test_every_temporary_file_of_a_killed_process_is_removed(tmp_path: Path, process: str) -> None:
    """That includes an ended process with the number of this one, as in a container that is started again."""
    leftover = temporary_of(ended() if process == "ended" else os.getpid(), tmp_path / "model.keras")
    for ending in ("", ".keras", ".old"):
        leftover.with_name(f"{leftover.name}{ending}").write_bytes(b"half")
    files.write_text(tmp_path / "model.keras", "complete")
    assert names(tmp_path) == ["model.keras"]


def test_a_folder_is_restored_if_its_replacement_was_killed(tmp_path: Path) -> None:
    """A process killed after it moved the old folder away, and before the new one came, loses nothing."""
    leftover = temporary_of(ended(), tmp_path / "photos")
    replaced = leftover.with_name(f"{leftover.name}.old")
    replaced.mkdir()
    (replaced / "old.jpg").touch()
    leftover.mkdir()
    with files.atomic_folder(tmp_path / "photos"):
        assert names(tmp_path / "photos") == ["old.jpg"]
    assert names(tmp_path) == ["photos"]


def test_a_folder_is_removed_atomically(tmp_path: Path) -> None:
    """After a kill during the removal the folder does not exist; the next removal deletes the rest."""
    (tmp_path / "state").mkdir()
    assert killed(REMOVING, tmp_path)
    [leftover] = names(tmp_path)
    assert leftover != "state"
    (tmp_path / "state").mkdir()
    files.remove_folder(tmp_path / "state")
    files.remove_folder(tmp_path / "state")  # it does not exist
    assert names(tmp_path) == []


def test_temporary_files_of_a_running_process_are_kept(tmp_path: Path) -> None:
    """Another running stage keeps its temporary folder, and so do files with other names."""
    running = temporary_of(os.getppid(), tmp_path / "photos")
    running.mkdir()
    (tmp_path / ".photos.keep").mkdir()
    (tmp_path / ".other.1").touch()
    with files.atomic_folder(tmp_path / "photos"):
        pass
    assert names(tmp_path) == sorted([running.name, ".photos.keep", ".other.1", "photos"])


@pytest.mark.reliability(
    "two at once", "two machines write into one folder, as a shared cache", "neither removes what the other writes"
)
def test_temporary_files_of_another_host_are_kept_for_a_day(tmp_path: Path) -> None:
    """Processes of another host cannot be checked, so only old files count as leftovers."""
    written = temporary_of(ended(), tmp_path / "file", host="another")
    written.touch()
    files.write_text(tmp_path / "file", "ours")
    assert written.exists()
    os.utime(written, (time.time() - 25 * 3600,) * 2)
    files.write_text(tmp_path / "file", "ours")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("moved", ["photos", ".old"])
def test_an_interrupted_replacement_leaves_a_complete_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """An interruption after either rename leaves the old folder or the new one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "old.jpg").touch()
    move = Path.replace

    def replace(path: Path, target: Path) -> Path:
        result = move(path, target)
        if target.name.endswith(moved) and path.parent == target.parent and not result.with_name("hit").exists():
            result.with_name("hit").touch()
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / "photos") as temporary:
        (temporary / "new.jpg").touch()
    assert names(tmp_path) == ["hit", "photos"]
    assert names(tmp_path / "photos") == (["old.jpg"] if moved == ".old" else ["new.jpg"])


@pytest.mark.reliability("killed", "power cut", "a file is flushed before it is renamed: there is the old or the new")
def test_files_are_flushed_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is flushed to the disk before it is renamed, and its parent folder after."""
    calls: list[tuple[str, str]] = []
    sync, move = os.fsync, Path.replace
    suffix = re.compile(r"(?<=\w)\.[\w-]+\.\d+\.[0-9a-f]+$")

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        calls.append(("flushed", suffix.sub("", Path(f"/proc/self/fd/{descriptor}").readlink().name)))

    def replace(path: Path, target: Path) -> Path:
        calls.append(("renamed", target.name))
        return move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    files.write_text(tmp_path / "text", "complete")
    assert calls == [("flushed", ".text"), ("renamed", "text"), ("flushed", tmp_path.name)]
    calls.clear()
    with files.atomic_folder(tmp_path / "photos") as temporary:
        (temporary / "cat").mkdir()
        (temporary / "cat" / "1.jpg").touch()
    *contents, renamed, last = calls
    assert {*contents} == {("flushed", name) for name in (".photos", "cat", "1.jpg")}
    assert (renamed, last) == (("renamed", "photos"), ("flushed", tmp_path.name))


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    """A text file is UTF-8 with the newlines of the text, on every system."""
    files.write_text(tmp_path / "text", "Größe\n\r\n")
    assert (tmp_path / "text").read_bytes() == "Größe\n\r\n".encode()


def test_json_is_readable_for_programs_and_people(tmp_path: Path) -> None:
    """Keys keep their order, letters are not escaped, and the last line ends with a newline."""
    value = {"b": [1, 2.5], "a": {"猫": None}}
    files.write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index('"b"') < text.index("猫")
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"path": Path()}])
def test_values_that_json_does_not_have_are_rejected(tmp_path: Path, value: Any) -> None:
    """No file is written that other programs cannot read."""
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "value.json", value)
    assert names(tmp_path) == []


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe, a device or a folder is not waited for; a link to a file is followed only on demand."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for path in (tmp_path / "file", tmp_path / "link"):
        with files.open_regular(path) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        with pytest.raises(files.NotRegularError):
            files.open_regular(tmp_path / name)
    with pytest.raises(files.NotRegularError):
        files.open_regular(tmp_path / "link", follow_links=False)
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "nothing")


def test_a_link_is_the_same_file(tmp_path: Path) -> None:
    """A hard link needs no space."""
    (tmp_path / "source").write_bytes(b"data")
    files.link(tmp_path / "source", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").samefile(tmp_path / "source")


def test_without_hard_links_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache on another disk works, too."""

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"data")
    files.link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"data"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


def test_a_link_overwrites_nothing(tmp_path: Path) -> None:
    """A file with the target's name is kept."""
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The digest is the one that `sha256sum` prints, for files of any size."""
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_csv_cells_are_quoted_where_necessary(tmp_path: Path) -> None:
    """Cells with commas, quotes and newlines are read back unchanged; lines end with a line feed."""
    files.write_csv(tmp_path / "table.csv", ["name", "number"], [['a, "b"\nc', 1], ["", 0.5]])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as table:
        content = table.read()
    assert content.splitlines()[0] == "name,number"
    assert "\r" not in content
    assert list(csv.reader(io.StringIO(content))) == [["name", "number"], ['a, "b"\nc', "1"], ["", "0.5"]]
