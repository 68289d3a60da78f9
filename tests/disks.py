"""Disks for tests: small ones, mounted in user namespaces so that root is not needed, and permissions that apply."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_WITHOUT_OVERRIDE = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


class Disk:
    """A disk in memory, in a mount namespace that this process can read, and that ends with its shell."""

    def __init__(self, mount_point: Path, shell: "subprocess.Popen[str]") -> None:
        """Args: mount_point, the folder; shell, a process in the namespace."""
        self._mount_point = mount_point
        self._shell = shell
        self.path = Path(f"/proc/{shell.pid}/root{mount_point}")

    @property
    def entering(self) -> list[str]:
        """The start of a command line that runs a command in the namespace, with the disk as its folder."""
        namespaces = [f"--target={self._shell.pid}", "--user", "--mount", "--preserve-credentials"]
        return ["nsenter", *namespaces, "--", "sh", "-c", 'cd "$0" && exec "$@"', str(self._mount_point)]

    def mount(self, options: str) -> None:
        """Mount the disk, or change it if `remount` is among the options."""
        assert self._output(f"mount -t tmpfs -o {options} tmpfs '{self._mount_point}' && echo done") == "done"

    def _output(self, command: str) -> str:
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{command} || echo no\n")
        self._shell.stdin.flush()
        return self._shell.stdout.readline().strip()


@contextmanager
def small(folder: Path, options: str) -> Iterator[Disk]:
    """Mount a disk while the block runs; skip the test on systems without user namespaces.

    Args:
        folder: the mount point inside the namespace; it is created.
        options: mount options of a tmpfs, such as `size=1m`.
    """
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("nsenter") or subprocess.run([*enter, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user namespaces, which this system does not allow")
    folder.mkdir(parents=True)
    with subprocess.Popen([*enter, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        try:
            disk = Disk(folder, shell)
            disk.mount(options)
            yield disk
        finally:
            shell.kill()


def free(disk: Disk) -> int:
    """Return the free bytes of a disk."""
    return shutil.disk_usage(disk.path).free


def bound_by_permissions() -> list[str]:
    """Return the start of a command line that makes permissions apply to root, too; skip the test if impossible."""
    if os.geteuid():
        return []
    command = [*_WITHOUT_OVERRIDE, "true"]
    if not shutil.which("setpriv") or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to drop capabilities")
    return [*_WITHOUT_OVERRIDE]
