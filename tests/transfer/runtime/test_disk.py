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
FULL = Path("/dev/full")  # every write fails with ENOSPC, also for root


def run(program: str, folder: Path, *prefix: str) -> "subprocess.CompletedProcess[str]":
    """Run a stage whose `main` is this line, as a process in a folder."""
    imports = "import resource\nfrom pathlib import Path\n"
    imports += "from transfer.network import weights\nfrom transfer.runtime import files, stage"
    stage = f"{imports}\nstage.run(lambda: {program})"
    return subprocess.run(
        [*prefix, sys.executable, "-c", stage],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(result: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of a stage that exited with 74."""
    assert result.returncode == 74, result.stderr
    [line] = result.stderr.splitlines()
    return line


def test_work_that_needs_more_space_does_not_begin(tmp_path: Path) -> None:
    """The message has the folder, which need not exist, the space needed and the space free."""
    begun = []
    with pytest.raises(DiskError) as caught, disk.space_for({tmp_path / "deep" / "folder": FAR_TOO_MUCH}):
        begun.append(1)
    assert not begun
    message = str(caught.value)
    assert message.startswith(
        f"The disk of `{tmp_path}/deep/folder` must have {disk.format_bytes(FAR_TOO_MUCH)} free. Received: "
    )
    assert "run again" in message


def test_needs_of_folders_on_one_disk_are_added(tmp_path: Path) -> None:
    """Two folders that fit alone do not fit together on one disk, but on two."""
    half = disk.free_bytes(tmp_path) * 2 // 3
    disk.require_space({tmp_path / "a": half})
    with pytest.raises(DiskError, match=re.escape(disk.format_bytes(2 * half))):
        disk.require_space({tmp_path / "a": half, tmp_path / "b": half})
    with disks.small(tmp_path / "other", "size=1m") as other:
        disk.require_space({tmp_path / "a": half, other.path: 1 << 19})
        assert disk.shortage({tmp_path: half, other.path: 3 << 20})[other.path] == 2 << 20


def test_a_disk_that_becomes_full_is_named(tmp_path: Path) -> None:
    """Errors of writing, which name no file, get the folder that was written to."""

    def write() -> None:
        with disk.space_for({tmp_path: 7_300_000}), FULL.open("wb", buffering=0) as file:
            file.write(b"?")

    with pytest.raises(DiskError, match=rf"`{tmp_path}` must have 7\.3 MB free\. Received: no space left on device, "):
        write()


def test_other_errors_are_not_changed(tmp_path: Path) -> None:
    """A missing file and a broken connection are not errors of the disk."""
    for error in (FileNotFoundError(2, "No such file"), ConnectionResetError(104, "Connection reset by peer")):
        with pytest.raises(type(error)), disk.space_for({tmp_path: 0}):
            raise error


@pytest.mark.reliability("disk", "no inode is left for another file", "exit 74; the folder is named")
def test_a_disk_without_inodes_is_full(tmp_path: Path) -> None:
    """The message asks for space for another file, and deleting files helps."""
    with disks.small(tmp_path / "disk", "size=1m,nr_inodes=4") as small:
        with pytest.raises(OSError, match="No space left") as full:
            [(small.path / str(number)).touch() for number in range(9)]
        message = disk.error_message(full.value)
    assert message.startswith(f"The disk of `{small.path}` must have space for another file. Received: ")
    assert "no space left on device, 1.05 MB free. Delete files there" in message


@pytest.mark.reliability("disk", "a read-only disk", "exit 74; the folder is named")
def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    """A stage that can read but not write names its output folder."""
    with disks.small(tmp_path / "disk", "size=1m") as small:
        (small.path / "artifacts").mkdir()
        small.mount("remount,ro")
        result = run("files.write_text(Path('artifacts/split/manifest.csv'), '')", tmp_path, *small.entering)
    assert refusal(result) == (
        "`artifacts/split` must be usable. Received: read-only file system. "
        "Check its path, permissions and disk, then run again."
    )


@pytest.mark.reliability("disk", "no permission to write to a folder", "exit 74; it is named")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    """With the permission the same command succeeds."""
    (tmp_path / "artifacts").mkdir(mode=0o555)
    program = "files.write_text(Path('artifacts/split/manifest.csv'), '')"
    assert refusal(run(program, tmp_path, *disks.bound_by_permissions())) == (
        "`artifacts/split` must be usable. Received: permission denied. "
        "Check its path, permissions and disk, then run again."
    )
    (tmp_path / "artifacts").chmod(0o755)
    assert run(program, tmp_path, *disks.bound_by_permissions()).returncode == 0


@pytest.mark.reliability("disk", "no permission to read a file", "exit 74; it is named")
def test_a_file_without_read_permission_is_named(tmp_path: Path) -> None:
    """The message names the file, not its folder."""
    (tmp_path / "params.yaml").touch(mode=0o000)
    message = refusal(run("Path('params.yaml').read_text()", tmp_path, *disks.bound_by_permissions()))
    assert message.startswith("`params.yaml` must be usable. Received: permission denied. ")


@pytest.mark.reliability("disk", "a file system or limit without files this large", "exit 74; the folder is named")
def test_a_file_over_the_size_limit_leaves_nothing(tmp_path: Path) -> None:
    """A file over a limit of sizes, as small file systems have one, is removed, and the folder named."""
    program = "(resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)), files.write_text(Path('deep/file'), 'x' * 99))"
    message = refusal(run(program, tmp_path))
    assert message.startswith("`deep` must be usable. Received: file too large. ")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.reliability("disk", "a disk that fails while it is read", "exit 74; the file is named, not called damaged")
def test_a_failing_disk_is_named(tmp_path: Path) -> None:
    """An input/output error, here from a process's unmapped memory, names the file that cannot be read."""
    (tmp_path / "vgg16.weights.h5").symlink_to("/proc/self/mem")
    assert refusal(run("weights.read(Path('vgg16.weights.h5'))", tmp_path)) == (
        "`vgg16.weights.h5` must be usable. Received: input/output error. "
        "Check its path, permissions and disk, then run again."
    )


def test_a_failing_disk_is_not_damaged_data(tmp_path: Path) -> None:
    """Readers of archives and networks pass a disk's error on with the file's name, and report others as damage."""
    with pytest.raises(OSError, match="Input/output error") as failing:
        disk.reraise_disk_error(OSError(errno.EIO, "the words of a library"), tmp_path)
    assert failing.value.filename == str(tmp_path)
    disk.reraise_disk_error(OSError("file signature not found"), tmp_path)
    disk.reraise_disk_error(ValueError("not a zip file"), tmp_path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    """Any other error that names a path keeps the system's reason."""
    (tmp_path / "params.yaml").mkdir()
    assert refusal(run("Path('params.yaml').read_text()", tmp_path)) == (
        "`params.yaml` must be usable. Received: is a directory. Check its path, permissions and disk, then run again."
    )


def test_a_temporary_folder_is_not_named(tmp_path: Path) -> None:
    """The message names the folder of the output, not the temporary folder that is filled first."""

    def fill() -> None:
        with files.atomic_folder(tmp_path / "photos") as temporary, files.atomic_write(temporary / "deep" / "file"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskError, match=rf"The disk of `{tmp_path}` must have space for another file"):
        fill()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (4096, "4.1 kB"), (999_000, "999 kB"), (58_881_664, "58.9 MB"), (1_440_000_000, "1.44 GB")],
)
def test_sizes_have_three_digits_and_a_unit(size: int, text: str) -> None:
    """Three digits suffice to compare the space needed with the space free."""
    assert disk.format_bytes(size) == text


def test_files_occupy_complete_blocks() -> None:
    """Many small files need more space than their bytes."""
    assert disk.size_on_disk([0, 1, 4096, 4097]) == 4 * 4096


@pytest.mark.parametrize("linked", [True, False])
def test_hard_links_are_tried(tmp_path: Path, *, linked: bool) -> None:
    """Hard links work on one disk but not between two; the trial leaves no file."""
    with disks.small(tmp_path / "other", "size=1m") as other:
        target = tmp_path / "here" if linked else other.path
        assert disk.can_hard_link(tmp_path / "rows", target) is linked
        assert list(tmp_path.iterdir()) == [tmp_path / "other"]
        assert list(other.path.iterdir()) == []
