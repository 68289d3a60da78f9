"""Processes: a command in a group of its own, read line by line, and ended with all it started."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from transfer.runtime import signals

GRACE = signals.GRACE + 1  # seconds from the request to end to the end
_STOPPING = 20.0  # seconds for a server or a worker to do the same in good order
_ROUNDS = 3
_PAUSE = 0.1  # seconds between looks
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment() -> dict[str, str]:
    """The variables to start things with: `python` is this very Python, nothing calls home, nothing asks questions."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "GIT_TERMINAL_PROMPT": "0"}
    return os.environ | own


def run(
    command: Sequence[str], environment: Mapping[str, str], *, secrets: Mapping[str, str], say: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Run a command in a group of its own; its exit code and the lines it said.

    Args:
        command: the program and its arguments.
        environment: its variables.
        secrets: more of its variables; their values are masked in the lines.
        say: told each line as it comes.
    """
    said = []
    with group(command, {**environment, **secrets}) as process:
        for line in lines(process):
            said.append(masked(line, secrets.values()))
            say(said[-1])
        code = process.wait()
    return code, said


def masked(line: str, secrets: Iterable[str]) -> str:
    """A line without the secrets in it."""
    parts = {part.strip() for secret in secrets for part in secret.splitlines()}
    for part in sorted(filter(None, parts), key=len, reverse=True):  # one may be in another
        line = line.replace(part, "********")
    return line


@contextmanager
def group(command: Sequence[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command as the leader of a process group; when the block is left, nothing of the group is left.

    Standard error goes where standard output goes, to be read with `lines`.
    """
    process = subprocess.Popen(  # noqa: S603 - no shell, and commands of our own
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        with lifeline(process.pid):
            yield process
    finally:
        end_group(process.pid)
        if process.stdout:
            process.stdout.close()
        process.wait()


@contextmanager
def lifeline(group: int) -> Iterator[None]:
    """Have a group end with this process while the block runs, even if this process is killed.

    A shell in the group waits for the end of a pipe of which this process alone has the other end.
    """
    watch = f"trap '' TERM; read -r _; kill -TERM -{group}; sleep {GRACE}; kill -KILL -{group}"
    with subprocess.Popen(  # noqa: S603 - the group's number is all that varies
        ["/bin/sh", "-c", watch],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=group,
    ) as watcher:
        try:
            yield
        finally:
            watcher.kill()


@contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Have a process while the block runs, in a group of its own, so that a Ctrl-C reaches it in its turn.

    Args:
        command: the program and its arguments.
        environment: its variables.
        log: where it writes; nowhere else than here if None.
    """
    with log.open("a", encoding="utf-8") if log else nullcontext() as file:
        process = subprocess.Popen(  # noqa: S603 - no shell, and commands of our own
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
        try:
            with lifeline(process.pid):
                try:
                    yield process
                finally:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_STOPPING)
        finally:
            end_group(process.pid)
            process.wait()


def interruptible() -> None:
    """Let all that asks a stage to end raise KeyboardInterrupt here."""
    for number in signals.handled_signals():
        signal.signal(number, signal.default_int_handler)


def lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """What a process says, a line at a time; of a line drawn over and over, what was left standing."""
    pending = b""
    for more in _chunks(process):
        *whole, pending = (pending + more).split(b"\n")
        yield from filter(None, map(_shown, whole))
    if last := _shown(pending):
        yield last


def _chunks(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """What it says until it ends, and what is in the pipe then; what it started may live on and say more for ever."""
    pipe = process.stdout
    if pipe is None:
        return
    while process.poll() is None:
        if select.select([pipe], [], [], _PAUSE)[0]:
            more = os.read(pipe.fileno(), 1 << 20)
            if not more:
                return
            yield more
    if select.select([pipe], [], [], 0)[0]:
        yield os.read(pipe.fileno(), 1 << 20)


def _shown(line: bytes) -> str:
    return _ESCAPES.sub("", line.decode(errors="replace")).rstrip().rpartition("\r")[2].rstrip()


def end_group(group: int) -> None:
    """End all processes of a group, also those that these start meanwhile."""
    for _ in range(_ROUNDS):
        if found := members(group):
            end(found)


def end(found: Iterable[psutil.Process]) -> None:
    """End processes: they are asked, and killed if they are still there after `GRACE` seconds."""
    living = list(found)
    for act in (psutil.Process.terminate, psutil.Process.kill):
        for process in living:
            with suppress(psutil.NoSuchProcess):
                act(process)
        deadline = time.monotonic() + GRACE
        while (living := [process for process in living if _lives(process)]) and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def members(group: int) -> list[psutil.Process]:
    """The living processes of a group."""
    return [process for process in psutil.process_iter() if _group(process) == group]


def _group(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.Error, OSError):
        return None
