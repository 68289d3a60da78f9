import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import disks
from transfer.runtime import disk, files
from transfer.runtime.errors import DiskError

ROOT = Path(disk.__file__).parents[2]
FAR_TOO_MUCH = 1 << 60
FULL = Path("/dev/full")  # takes no byte, for anybody


def run(program: str, folder: Path, *before: str) -> "subprocess.CompletedProcess[str]":
    """Run a stage whose `main` is this line, as a process in a folder."""
    imports = "import resource\nfrom pathlib import Path\n"
    imports += "from transfer.network import weights\nfrom transfer.runtime import files, stage"
    stage = f"{imports}\nstage.run(lambda: {program})"
    return subprocess.run(
        [*before, sys.executable, "-c", stage],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def last_words(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line in which a stage says that the disk refused."""
    assert done.returncode == 74, done.stderr
    [line] = done.stderr.splitlines()
    return line


def test_work_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    """The line has the folder, what is needed and what is free; the folder need not be there yet."""
    begun = []
    with pytest.raises(DiskError) as refused, disk.space_for({tmp_path / "deep" / "folder": FAR_TOO_MUCH}):
        begun.append(1)
    assert not begun
    words = str(refused.value)
    assert words.startswith(
        f"The disk of `{tmp_path}/deep/folder` must have {disk.format_bytes(FAR_TOO_MUCH)} free. Received: "
    )
    assert "run again" in words


def test_folders_of_one_disk_share_its_room(tmp_path: Path) -> None:
    """What fits alone does not fit together; on another disk it does."""
    half = disk.free_bytes(tmp_path) * 2 // 3
    disk.require_space({tmp_path / "a": half})
    with pytest.raises(DiskError, match=re.escape(disk.format_bytes(2 * half))):
        disk.require_space({tmp_path / "a": half, tmp_path / "b": half})
    with disks.small(tmp_path / "other", "size=1m") as other:
        disk.require_space({tmp_path / "a": half, other.path: 1 << 19})
        assert disk.shortage({tmp_path: half, other.path: 3 << 20})[other.path] == 2 << 20


def test_a_disk_that_gets_full_is_named(tmp_path: Path) -> None:
    """Errors that name no file, as those of writing, get the folder that was written to."""

    def write() -> None:
        with disk.space_for({tmp_path: 7_300_000}), FULL.open("wb", buffering=0) as file:
            file.write(b"?")

    with pytest.raises(DiskError, match=rf"`{tmp_path}` must have 7\.3 MB free\. Received: no space left on device, "):
        write()


def test_other_failures_are_left_as_they_are(tmp_path: Path) -> None:
    """A missing file and a broken connection are no fault of the disk."""
    for error in (FileNotFoundError(2, "No such file"), ConnectionResetError(104, "Connection reset by peer")):
        with pytest.raises(type(error)), disk.space_for({tmp_path: 0}):
            raise error


@pytest.mark.reliability("disk", "no inode is left for another file", "exit 74; the folder and the lack are named")
def test_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    """Where there is room but none for another file, free bytes alone would mislead."""
    with disks.small(tmp_path / "disk", "size=1m,nr_inodes=4") as small:
        with pytest.raises(OSError, match="No space left") as full:
            [(small.path / str(number)).touch() for number in range(9)]
        words = disk.error_message(full.value)
    assert words.startswith(f"The disk of `{small.path}` must have room for what is written. Received: ")
    assert "1.05 MB free, no inode for another file" in words


@pytest.mark.reliability("disk", "a read-only disk", "exit 74; the folder is named, and to mount it for writing")
def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    """A stage that may read but not write says where, and what would help."""
    with disks.small(tmp_path / "disk", "size=1m") as small:
        (small.path / "artifacts").mkdir()
        small.mount("remount,ro")
        done = run("outputs.write_text(Path('artifacts/split/manifest.csv'), '')", tmp_path, *small.entering)
    assert last_words(done) == (
        "`artifacts/split` must lie on a disk that can be written to. Received: read-only file system. "
        "Mount it for writing or work in another folder, then run again: what is whole is kept."
    )


@pytest.mark.reliability("disk", "no right to write to a folder", "exit 74; it is named, and the command that mends it")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    """The folder is named, and the command that mends it does mend it."""
    (tmp_path / "artifacts").mkdir(mode=0o555)
    program = "outputs.write_text(Path('artifacts/split/manifest.csv'), '')"
    words = last_words(run(program, tmp_path, *disks.bound_by_permissions()))
    cure = "chmod -R u+rwX artifacts"
    assert words == (
        f"`artifacts` must be yours to read and write. Received: permission denied. Run `{cure}`, "
        "then run again: what is whole is kept."
    )
    subprocess.run(["sh", "-c", cure], cwd=tmp_path, check=True)
    assert run(program, tmp_path, *disks.bound_by_permissions()).returncode == 0


@pytest.mark.reliability("disk", "no right to read a file", "exit 74; it is named, and the command that mends it")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """It is the file that is named, not its folder."""
    (tmp_path / "params.yaml").touch(mode=0o000)
    words = last_words(run("Path('params.yaml').read_text()", tmp_path, *disks.bound_by_permissions()))
    assert words.startswith("`params.yaml` must be yours to read and write. Received: permission denied. ")


def test_a_file_that_may_not_be_written_to(tmp_path: Path) -> None:
    """A file of somebody else's in a folder for all is named, and no folder above it, however closed."""
    (tmp_path / "memo").mkdir(mode=0o777)
    (tmp_path / "memo/kaggle.zip.part").touch(mode=0o444)
    tmp_path.chmod(0o555)
    words = last_words(run("Path('memo/kaggle.zip.part').open('ab')", tmp_path, *disks.bound_by_permissions()))
    tmp_path.chmod(0o755)
    assert words.startswith("`memo/kaggle.zip.part` must be yours to read and write. ")
    assert "Run `chmod -R u+rwX memo/kaggle.zip.part`" in words


def test_what_belongs_to_somebody_else_is_to_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the mode of another user's files is not allowed, as of those a container's root has made."""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    words = disk.error_message(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "file")))
    assert f"Run `sudo chown -R $(id -un) {tmp_path}`" in words


@pytest.mark.reliability("disk", "a file system or limit without files this large", "exit 74; the folder is named")
def test_a_file_larger_than_is_allowed(tmp_path: Path) -> None:
    """A limit of file sizes, as small file systems have one, is said and leaves no half file."""
    program = "(resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)), outputs.write_text(Path('deep/file'), 'x' * 99))"
    words = last_words(run(program, tmp_path))
    assert words.startswith("`deep` must take files as large as they come. Received: file too large. ")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.reliability("disk", "a disk that fails while it is read", "exit 74; the file is named, not called damaged")
def test_a_disk_that_fails(tmp_path: Path) -> None:
    """An input/output error, here that of a process's unmapped memory, says which file cannot be read."""
    (tmp_path / "vgg16.weights.h5").symlink_to("/proc/self/mem")
    assert last_words(run("weights.read(Path('vgg16.weights.h5'))", tmp_path)) == (
        "`vgg16.weights.h5` must be readable and writable. Received: input/output error. "
        "The disk or the way to it fails: look at the system's log, then run again: what is whole is kept."
    )


def test_refusals_are_told_from_damage(tmp_path: Path) -> None:
    """What reads archives and networks passes a failing disk on, with the file, instead of calling the file damaged."""
    with pytest.raises(OSError, match="Input/output error") as failing:
        disk.reraise_disk_error(OSError(errno.EIO, "in some library's words"), tmp_path)
    assert failing.value.filename == str(tmp_path)
    disk.reraise_disk_error(OSError("file signature not found"), tmp_path)
    disk.reraise_disk_error(ValueError("no zip"), tmp_path)


def test_a_name_that_is_a_folder_s_is_named(tmp_path: Path) -> None:
    """Other refusals keep the system's word and the file."""
    (tmp_path / "params.yaml").mkdir()
    assert last_words(run("Path('params.yaml').read_text()", tmp_path)) == (
        "`params.yaml` must be a file or folder that can be used. Received: is a directory. "
        "Mend what lies there and run again."
    )


def test_a_folder_being_filled_is_not_named(tmp_path: Path) -> None:
    """Users know the folder in which results appear, not the one in which they are gathered."""

    def fill() -> None:
        with files.atomic_folder(tmp_path / "photos") as beside, files.atomic_write(beside / "deep" / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskError, match=rf"The disk of `{tmp_path}` must have room for what is written"):
        fill()


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (4096, "4.1 kB"), (999_000, "999 kB"), (58_881_664, "58.9 MB"), (1_440_000_000, "1.44 GB")],
)
def test_sizes_are_in_words(size: int, words: str) -> None:
    """Three digits are enough for people, and tell what is needed from what is free."""
    assert disk.format_bytes(size) == words


def test_files_take_whole_blocks() -> None:
    """Many small files take more than their bytes."""
    assert disk.size_on_disk([0, 1, 4096, 4097]) == 4 * 4096


@pytest.mark.parametrize("linked", [True, False])
def test_whether_links_are_possible_is_tried(tmp_path: Path, *, linked: bool) -> None:
    """On one disk there are hard links, to another there are none; nothing is left of the trial."""
    with disks.small(tmp_path / "other", "size=1m") as other:
        target = tmp_path / "here" if linked else other.path
        assert disk.can_hard_link(tmp_path / "rows", target) is linked
        assert list(tmp_path.iterdir()) == [tmp_path / "other"]
        assert list(other.path.iterdir()) == []
