"""Disks for tests: small ones, in namespaces of their own so that nobody must be root, and permissions that bind."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BINDING = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


class Disk:
    """A disk in memory, in a mount namespace that this process looks into, and that ends with it."""

    def __init__(self, mount_point: Path, shell: "subprocess.Popen[str]") -> None:
        """Args: mount_point, the folder; shell, one in the namespace."""
        self._mount_point = mount_point
        self._shell = shell
        self.path = Path(f"/proc/{shell.pid}/root{mount_point}")

    @property
    def entering(self) -> list[str]:
        """What is put before a command to run it where the disk is, with the disk as its folder."""
        namespaces = [f"--target={self._shell.pid}", "--user", "--mount", "--preserve-credentials"]
        return ["nsenter", *namespaces, "--", "sh", "-c", 'cd "$0" && exec "$@"', str(self._mount_point)]

    def mount(self, options: str) -> None:
        """Mount it; with `remount` among the options, change it."""
        assert self._said(f"mount -t tmpfs -o {options} tmpfs '{self._mount_point}' && echo done") == "done"

    def _said(self, command: str) -> str:
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{command} || echo no\n")
        self._shell.stdin.flush()
        return self._shell.stdout.readline().strip()


@contextmanager
def small(folder: Path, options: str) -> Iterator[Disk]:
    """Have a disk while the block runs, mounted with these options, as `size=1m`; skip the test where none can be had.

    Args:
        folder: where it is mounted, for those in the namespace; it is made.
        options: of a tmpfs.
    """
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("nsenter") or subprocess.run([*enter, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user namespaces, which this system does not give")
    folder.mkdir(parents=True)
    with subprocess.Popen([*enter, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        try:
            disk = Disk(folder, shell)
            disk.mount(options)
            yield disk
        finally:
            shell.kill()


def free(disk: Disk) -> int:
    """How many bytes it has left."""
    return shutil.disk_usage(disk.path).free


def bound_by_permissions() -> list[str]:
    """What is put before a command so that permissions bind it, as they do not bind root; skip where that fails."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv") or subprocess.run([*_BINDING, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to give up rights")
    return [*_BINDING]
