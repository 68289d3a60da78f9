"""Processes: run a command in a process group of its own, read its output by lines, terminate all it started."""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import psutil

from flows import masking
from transfer.runtime import signals, stage

GRACE = signals.GRACE + 1  # seconds from SIGTERM to SIGKILL
_KILLING = 10.0  # seconds to wait for the end of a process after SIGKILL, on a busy machine
_STOPPING = 20.0  # seconds for a server or a worker to stop after SIGTERM
_ROUNDS = 3
_PAUSE = 0.1  # seconds between two checks
_LOOPBACK = ("127.0.0.1", "::1")  # the addresses of Prefect's server
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy")
_interrupted = threading.Event()  # by a signal, whose exception Python drops in a finalizer or a callback of weakref
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its code, with that of an error in one line, or with 130 after SIGINT."""
    try:
        with stage.errors_in_one_line():
            sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def environment() -> dict[str, str]:
    """Return the variables for child processes: `python` is this Python, no telemetry, no password prompts of Git."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    own = {"PATH": path, "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "GIT_TERMINAL_PROMPT": "0"}
    return os.environ | own | without_proxy()


def without_proxy(server: str | None = None) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` of the user, extended by this machine; nothing if no proxy is configured.

    Without a proxy they stay unset: with one of them set, Python would not look for a proxy in macOS's own settings.
    The name localhost is added only if the server is named so: some ask a proxy for that name on purpose.

    Args:
        server: the address of the Prefect server; PREFECT_API_URL if None.
    """
    if not any(value for name, value in os.environ.items() if name.lower() in _PROXIES):
        return {}
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if hosts.strip() != "*":
        address = os.environ.get("PREFECT_API_URL", "") if server is None else server
        listed = [host.strip() for host in hosts.split(",") if host.strip()]
        named = ["localhost"] if "//localhost" in address else []
        hosts = ",".join(dict.fromkeys([*listed, *_LOOPBACK, *named]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def bypass_proxy(server: str) -> None:
    """Let this process and its children connect to servers of this machine directly; to be called before any client.

    Args:
        server: the address of the Prefect server.
    """
    os.environ.update(without_proxy(server))


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    secrets: Mapping[str, str],
    log: Callable[[str], None],
    pass_fds: Collection[int] = (),
) -> tuple[int, list[str]]:
    """Run a command in a process group of its own.

    Args:
        command: the program and its arguments.
        environment: its variables.
        secrets: more of its variables; their values are masked in the output.
        log: called with each line of output as it arrives.
        pass_fds: file descriptors that it inherits.

    Returns:
        The exit code and the lines of output.
    """
    output = []
    with group(command, {**environment, **secrets}, pass_fds=pass_fds) as process:
        for line in masking.masked_lines(lines(process), secrets.values()):
            output.append(line)
            log(line)
        code = process.wait()
    return code, output


@contextmanager
def group(
    command: Sequence[str], environment: Mapping[str, str], *, pass_fds: Collection[int] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command as the leader of a process group; terminate the whole group when the block ends.

    Standard error is redirected to standard output; read both with `lines`.
    """
    _raise_if_interrupted()
    process = subprocess.Popen(  # noqa: S603 - no shell, and the project's own commands
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        pass_fds=pass_fds,
    )
    try:
        with parent_watchdog(process.pid):
            yield process
    except KeyboardInterrupt:
        _interrupted.clear()
        raise
    finally:
        terminate_group(process.pid)
        if process.stdout:
            process.stdout.close()
        process.wait()


@contextmanager
def parent_watchdog(group: int) -> Iterator[None]:
    """Terminate a process group if this process ends during the block, even if it is killed.

    A shell in the group waits for the end of a pipe; this process alone holds the other end of that pipe.
    """
    watch = f"trap '' TERM; read -r _; kill -TERM -{group}; sleep {GRACE}; kill -KILL -{group}"
    with subprocess.Popen(  # noqa: S603 - only the group's number varies
        ["/bin/sh", "-c", watch],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=group,
    ) as watchdog:
        try:
            yield
        finally:
            watchdog.kill()


@contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process during the block, in a process group of its own, so that Ctrl-C does not reach it directly.

    Args:
        command: the program and its arguments.
        environment: its variables.
        log: the file that its output is appended to; if None, it writes to the terminal of this process.
    """
    with log.open("a", encoding="utf-8") if log else nullcontext() as file:
        process = subprocess.Popen(  # noqa: S603 - no shell, and the project's own commands
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
        )
        try:
            with parent_watchdog(process.pid):
                try:
                    yield process
                finally:
                    process.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_STOPPING)
        finally:
            terminate_group(process.pid)
            process.wait()


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on each signal that ends a stage: SIGINT, SIGTERM, SIGHUP."""
    _interrupted.clear()
    for number in signals.handled_signals():
        signal.signal(number, _interrupt)


def _raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt, once, if a signal has raised it and Python may have dropped it."""
    if _interrupted.is_set():
        _interrupted.clear()
        raise KeyboardInterrupt


def _interrupt(*_: object) -> NoReturn:
    _interrupted.set()
    raise KeyboardInterrupt


def lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """Yield the output of a process by lines; of a line that is redrawn, as by a progress bar, the last drawing."""
    pending = b""
    for chunk in _chunks(process):
        *complete, pending = (pending + chunk).split(b"\n")
        yield from filter(None, map(_text, complete))
    if last := _text(pending):
        yield last


def _chunks(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """Yield the output until the process ends, then what is in the pipe; orphans of it may keep the pipe open."""
    pipe = process.stdout
    if pipe is None:
        return
    while process.poll() is None:
        _raise_if_interrupted()
        if select.select([pipe], [], [], _PAUSE)[0]:
            chunk = os.read(pipe.fileno(), 1 << 20)
            if not chunk:
                return
            yield chunk
    if select.select([pipe], [], [], 0)[0]:
        yield os.read(pipe.fileno(), 1 << 20)


def _text(line: bytes) -> str:
    return _ESCAPES.sub("", line.decode(errors="replace")).rstrip().rpartition("\r")[2].rstrip()


def terminate_group(group: int) -> None:
    """Terminate all processes of a group, also those started meanwhile."""
    for _ in range(_ROUNDS):
        if found := members(group):
            terminate(found)


def terminate(processes: Iterable[psutil.Process]) -> None:
    """Send SIGTERM to processes, and SIGKILL to those that still run after `GRACE` seconds."""
    running = list(processes)
    for send, seconds in ((psutil.Process.terminate, GRACE), (psutil.Process.kill, _KILLING)):
        for process in running:
            with suppress(psutil.NoSuchProcess):
                send(process)
        deadline = time.monotonic() + seconds
        while (running := [process for process in running if _is_running(process)]) and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def members(group: int) -> list[psutil.Process]:
    """Return the running processes of a group."""
    return [process for process in psutil.process_iter() if _group(process) == group]


def _group(process: psutil.Process) -> int | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getpgid(process.pid)
    except (psutil.Error, OSError):
        return None
