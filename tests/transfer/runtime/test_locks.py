import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from transfer.runtime import locks
from transfer.runtime.errors import DiskError, LockedError

HOLDER = """
import sys, time
from pathlib import Path
from transfer.runtime import locks
with locks.exclusive(Path("deep/lock"), busy=""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_one_process_holds_a_lock_until_it_ends(tmp_path: Path) -> None:
    """A second process fails at once with the given message; a killed process frees its lock."""
    environment = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        lock = tmp_path / "deep/lock"
        with pytest.raises(LockedError, match=r"^Another process fetches it\.$"):
            locks.exclusive(lock, busy="Another process fetches it.").__enter__()
        process.kill()
    with locks.exclusive(lock, busy=""):
        pass


def test_a_lock_is_free_after_the_block(tmp_path: Path) -> None:
    """A block that fails frees its lock, and the content of the lock file stays."""
    lock = tmp_path / "lock"
    lock.write_text("content")

    def fail() -> None:
        with locks.exclusive(lock, busy=""):
            with pytest.raises(LockedError), locks.exclusive(lock, busy="busy"):
                pass
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert lock.read_text() == "content"


@pytest.mark.reliability("disk", "a file system without locks", "exit 74; the folder is named")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No lock is replaced by a file that a killed process would leave behind."""

    def flock(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(DiskError) as caught, locks.exclusive(tmp_path / "lock", busy=""):
        pass
    assert str(caught.value) == (
        f"`{tmp_path}` must be on a file system that has locks. Received: {os.strerror(number)}. "
        "Work in a folder on another disk, then run again."
    )


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A folder with the name of the lock file is a disk error, with its path."""
    (tmp_path / "lock").mkdir()
    with pytest.raises(DiskError, match=f"`{tmp_path}/lock`"), locks.exclusive(tmp_path / "lock", busy=""):
        pass
