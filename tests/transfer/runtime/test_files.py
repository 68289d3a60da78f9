import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from transfer.runtime import files


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Until the block ends there is no such file; then there is nothing else."""
    target = tmp_path / "deep" / "file.bin"
    with files.atomic_write(target) as beside:
        beside.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["file.bin"]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """A failure half-way costs nothing that was there, and leaves no rubbish."""
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with files.atomic_write(target) as beside:
            beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    """Forgetting to write is not passed over."""
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "file.txt"):
        pass


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    """Nothing of the old folder is left among the new files."""
    target = tmp_path / "photos"
    (target / "cat").mkdir(parents=True)
    (target / "cat" / "old.jpg").touch()
    with files.atomic_folder(target) as beside:
        (beside / "new.jpg").touch()
        assert names(target) == ["cat"]
    assert names(target) == ["new.jpg"]
    assert names(tmp_path) == ["photos"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """A stage that fails while it writes leaves its last results as they were."""
    target = tmp_path / "photos"
    target.mkdir()
    (target / "old.jpg").touch()

    def fail() -> None:
        with files.atomic_folder(target) as beside:
            (beside / "half.jpg").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(target) == ["old.jpg"]
    assert names(tmp_path) == ["photos"]


KILLED = """
import os, signal
from pathlib import Path
from transfer.runtime import files
with outputs.whole_folder(Path("photos")) as beside:
    (beside / "half.jpg").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


REMOVING = """
import os, shutil, signal
from pathlib import Path
from transfer.runtime import files
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
outputs.remove_folder(Path("state"))
"""


def written_by(process: int, path: Path, host: str = "") -> Path:
    """Where a process writes what gets a path when it is whole; of this host, unless another is named."""
    with files.atomic_write(path.with_name("any")) as beside:
        beside.touch()
    path.with_name("any").unlink()
    _, _, here, _ = beside.name.split(".")
    return path.with_name(f".{path.name}.{host or here}.{process}")


def ended() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def killed(program: str, folder: Path) -> bool:
    """Whether a program, run in a folder, was killed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=False).returncode < 0


@pytest.mark.reliability(
    "killed", "killed again and again", "the next run removes what was half written: the disk does not fill"
)
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Killing a stage again and again does not fill the disk."""
    assert killed(KILLED, tmp_path)
    assert len(names(tmp_path)) == 1
    with files.atomic_folder(tmp_path / "photos"):
        pass
    assert names(tmp_path) == ["photos"]


def test_whatever_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """What was written beside a file, on the way to it and in place of a folder goes with the next of its name."""
    gone = written_by(ended(), tmp_path / "model.keras")
    for kind in ("", ".keras", ".old"):
        gone.with_name(f"{gone.name}{kind}").write_bytes(b"half")
    files.write_text(tmp_path / "model.keras", "whole")
    assert names(tmp_path) == ["model.keras"]


def test_a_folder_whose_replacement_was_killed_is_put_back(tmp_path: Path) -> None:
    """Killed between the old folder's going and the new one's coming, a process leaves the old one to be had."""
    gone = written_by(ended(), tmp_path / "photos")
    replaced = gone.with_name(f"{gone.name}.old")
    replaced.mkdir()
    (replaced / "old.jpg").touch()
    gone.mkdir()
    with files.atomic_folder(tmp_path / "photos"):
        assert names(tmp_path / "photos") == ["old.jpg"]
    assert names(tmp_path) == ["photos"]


def test_a_folder_is_removed_whole(tmp_path: Path) -> None:
    """Killed while it removes a folder, a process has removed it for everybody; the next removes what is left."""
    (tmp_path / "state").mkdir()
    assert killed(REMOVING, tmp_path)
    [left] = names(tmp_path)
    assert left != "state"
    (tmp_path / "state").mkdir()
    files.remove_folder(tmp_path / "state")
    files.remove_folder(tmp_path / "state")  # there is none any more
    assert names(tmp_path) == []


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    """A stage that still runs elsewhere keeps its half-written folder; so does anything with another name."""
    running = written_by(os.getppid(), tmp_path / "photos")
    running.mkdir()
    (tmp_path / ".photos.keep").mkdir()
    (tmp_path / ".other.1").touch()
    with files.atomic_folder(tmp_path / "photos"):
        pass
    assert names(tmp_path) == sorted([running.name, ".photos.keep", ".other.1", "photos"])


@pytest.mark.reliability(
    "two at once", "two machines write into one folder, as a shared cache", "neither removes what the other writes"
)
def test_what_another_host_writes_is_left_alone_for_a_day(tmp_path: Path) -> None:
    """Nobody can ask for another host's process, so only what is old is taken for left behind."""
    written = written_by(ended(), tmp_path / "file", host="another")
    written.touch()
    files.write_text(tmp_path / "file", "ours")
    assert written.exists()
    os.utime(written, (time.time() - 25 * 3600,) * 2)
    files.write_text(tmp_path / "file", "ours")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("moved", ["photos", ".old"])
def test_a_folder_is_replaced_or_not_whenever_that_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: str
) -> None:
    """Interrupted as soon as one of the two is moved, a process leaves the old folder or the new one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "old.jpg").touch()
    move = Path.replace

    def replace(path: Path, target: Path) -> Path:
        done = move(path, target)
        if target.name.endswith(moved) and path.parent == target.parent and not done.with_name("hit").exists():
            done.with_name("hit").touch()
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / "photos") as beside:
        (beside / "new.jpg").touch()
    assert names(tmp_path) == ["hit", "photos"]
    assert names(tmp_path / "photos") == (["old.jpg"] if moved == ".old" else ["new.jpg"])


@pytest.mark.reliability("killed", "power cut", "bytes are on the disk before the name is: there is the old or the new")
def test_bytes_are_on_the_disk_before_their_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is forced to the disk before it gets its name, and its name thereafter."""
    done: list[tuple[str, str]] = []
    sync, move = os.fsync, Path.replace
    unfinished = written_by(os.getpid(), tmp_path / "file").name.removeprefix(".file")

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        done.append(("on disk", Path(f"/proc/self/fd/{descriptor}").readlink().name.replace(unfinished, "")))

    def replace(path: Path, target: Path) -> Path:
        done.append(("named", target.name))
        return move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    files.write_text(tmp_path / "text", "whole")
    assert done == [("on disk", ".text"), ("named", "text"), ("on disk", tmp_path.name)]
    done.clear()
    with files.atomic_folder(tmp_path / "photos") as beside:
        (beside / "cat").mkdir()
        (beside / "cat" / "1.jpg").touch()
    *written, named, last = done
    assert {*written} == {("on disk", name) for name in (".photos", "cat", "1.jpg")}
    assert (named, last) == (("named", "photos"), ("on disk", tmp_path.name))


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    """UTF-8 and the newlines of the text, on every system."""
    files.write_text(tmp_path / "text", "Größe\n\r\n")
    assert (tmp_path / "text").read_bytes() == "Größe\n\r\n".encode()


def test_json_can_be_read_again_and_by_people(tmp_path: Path) -> None:
    """Keys stay in their order, letters stay letters, the last line ends."""
    value = {"b": [1, 2.5], "a": {"猫": None}}
    files.write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index('"b"') < text.index("猫")
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"path": Path()}])
def test_what_json_cannot_say_is_refused(tmp_path: Path, value: Any) -> None:
    """No file that other programs fail to read is ever written."""
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "value.json", value)
    assert names(tmp_path) == []


def test_a_link_is_the_same_file(tmp_path: Path) -> None:
    """Linking costs no disk where the disk allows it."""
    (tmp_path / "source").write_bytes(b"data")
    files.link(tmp_path / "source", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").samefile(tmp_path / "source")


def test_where_links_are_impossible_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache on another disk is as good."""

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_bytes(b"data")
    files.link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"data"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


def test_a_link_overwrites_nothing(tmp_path: Path) -> None:
    """What has the target's name already stays."""
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.link(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"


def test_sha256_is_the_one_of_the_bytes(tmp_path: Path) -> None:
    """The same as `sha256sum` prints, for files of any size."""
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_csv_file_quotes_what_must_be(tmp_path: Path) -> None:
    """Cells come back as they were written, whatever is in them; lines end as on Unix."""
    files.write_csv(tmp_path / "table.csv", ["name", "number"], [['a, "b"\nc', 1], ["", 0.5]])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as table:
        content = table.read()
    assert content.splitlines()[0] == "name,number"
    assert "\r" not in content
    assert list(csv.reader(io.StringIO(content))) == [["name", "number"], ['a, "b"\nc', "1"], ["", "0.5"]]
