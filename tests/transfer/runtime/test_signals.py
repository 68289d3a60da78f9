import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transfer.runtime import signals

REPOSITORY = Path(signals.__file__).parents[2]
PROGRAM = """\
import hashlib, os, signal, time
from concurrent.futures import ThreadPoolExecutor
from transfer.runtime import errors, signals, stage
signals.GRACE, signals._INTERVAL = {grace}, 0.05
def sleep(seconds):
    print("started", flush=True)
    time.sleep(seconds)
def main():
{body}
stage.run(main)
"""
# minutes in native code, in which Python runs no signal handler
NATIVE = 'print("started", flush=True)\nhashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'
ALL = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
LAST_LINES = {
    signal.SIGHUP: "The terminal was closed. Completed work is kept; run the same command to go on.",
    signal.SIGINT: "Interrupted. Completed work is kept; run the same command to go on.",
    signal.SIGTERM: "Terminated. Completed work is kept; run the same command to go on.",
}


def command(body: str, *, grace: float = 5.0) -> list[str]:
    """Return the command of a stage whose `main` has this body, which prints "started"."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-c", PROGRAM.format(grace=grace, body=indented)]


@contextmanager
def started(command: list[str], **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process and wait until it has printed "started"; kill it after the block."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line == "started\n", process.communicate(timeout=60)[1]
        try:
            yield process
        finally:
            process.kill()


def ending(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, list[str]]:
    """Send a signal to a process; return its exit code and its lines on standard error, within a minute."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr.splitlines()


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_a_signal_ends_a_stage(number: signal.Signals) -> None:
    """SIGINT, SIGTERM and SIGHUP end a stage with the shell's exit code and one line that tells how to continue."""
    with started(command("sleep(600)")) as process:
        assert ending(process, number) == (128 + number, [LAST_LINES[number]])


@pytest.mark.reliability(
    "killed", "a signal during a long native operation", "ends within 10 s all the same, with the same last line"
)
@pytest.mark.parametrize(
    "body",
    [NATIVE, "with ThreadPoolExecutor() as pool:\n    pool.submit(sleep, 600).result()"],
    ids=["native", "thread"],
)
def test_a_stage_that_cannot_be_interrupted_ends_too(body: str) -> None:
    """A process in native code, or one that waits for a thread, ends after the grace period, which is half of 10 s.

    The tests wait longer than these ten seconds, as the whole machine may stall.
    """
    assert signals.GRACE <= 5
    with started(command(body, grace=0.2)) as process:
        assert ending(process, signal.SIGTERM) == (143, [LAST_LINES[signal.SIGTERM]])


def test_a_stage_has_time_to_clean_up(tmp_path: Path) -> None:
    """`finally` blocks of an interrupted stage run, as those that remove temporary files."""
    body = f"try:\n    sleep(600)\nfinally:\n    time.sleep(0.3)\n    open({str(tmp_path / 'clean')!r}, 'w')"
    with started(command(body)) as process:
        assert ending(process, signal.SIGINT)[0] == 130
    assert (tmp_path / "clean").exists()


def test_a_second_signal_is_ignored() -> None:
    """Pressing Ctrl-C again does not interrupt the cleaning up."""
    body = "try:\n    sleep(600)\nfinally:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.1)"
    with started(command(body)) as process:
        assert ending(process, signal.SIGTERM) == (143, [LAST_LINES[signal.SIGTERM]])


def test_an_exception_that_a_library_replaced_is_no_traceback() -> None:
    """A library that turns the interruption into an exception of its own does not change how the stage ends."""
    body = "try:\n    sleep(600)\nexcept BaseException:\n    raise RuntimeError('cancelled')"
    with started(command(body)) as process:
        assert ending(process, signal.SIGINT) == (130, [LAST_LINES[signal.SIGINT]])


@pytest.mark.parametrize(
    ("number", "seconds", "code"), [(signal.SIGINT, 600, 130), (signal.SIGHUP, 1, 0)], ids=["behind &", "under nohup"]
)
def test_signals_that_a_shell_ignores(number: signal.Signals, seconds: int, code: int) -> None:
    """SIGINT ends a stage that a shell started with `&`; under `nohup` a stage outlives the terminal."""
    ignoring = (
        f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with started([sys.executable, "-c", ignoring, *command(f"sleep({seconds})")]) as process:
        assert ending(process, number)[0] == code


def test_a_process_in_which_a_stage_has_ended_is_left_alone() -> None:
    """A signal that a program handles itself, after a stage has run in its process, does not end it."""
    handled = "signal.signal(signal.SIGINT, lambda *_: None)\nos.kill(os.getpid(), signal.SIGINT)"
    program = PROGRAM.format(grace=0.1, body="    pass")
    result = subprocess.run(
        [sys.executable, "-c", f"{program}{handled}\ntime.sleep(0.5)\nprint('goes on')"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "goes on\n")


PARENT = """\
import os, subprocess, sys
stage = subprocess.Popen(sys.argv[1:])
stage.wait()
"""


@pytest.mark.reliability(
    "killed", "`kill -9` of `dvc repro` while a stage runs", "the stage notices within seconds and ends, saying so"
)
@pytest.mark.parametrize("body", ["sleep(600)", NATIVE], ids=["sleep", "native"])
def test_a_stage_ends_with_its_dvc(body: str) -> None:
    """A stage whose DVC was killed does not run in parallel to the next one."""
    with started([sys.executable, "-c", PARENT, *command(body, grace=0.2)], DVC_STAGE="split") as dvc:
        dvc.kill()
        lines = dvc.communicate(timeout=60)[1].splitlines()  # the pipe is closed when the stage ends
    assert lines == ["The DVC that started this stage has ended.", LAST_LINES[signal.SIGTERM]]


def test_without_dvc_a_stage_outlives_its_parent(tmp_path: Path) -> None:
    """A stage started by hand in the background continues when its shell ends."""
    body = f"sleep(0.5)\nopen({str(tmp_path / 'done')!r}, 'w')"
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    with started(["env", "-u", "DVC_STAGE", sys.executable, "-c", PARENT, *command(body)], **environment) as shell:
        shell.kill()
        shell.communicate(timeout=60)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_the_last_line_is_written_while_imports_silence_standard_error(number: signal.Signals) -> None:
    """A signal during the import of TensorFlow, which redirects standard error, still gives the last line."""
    body = "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\nsleep(600)"
    with started(command(body)) as process:
        assert ending(process, number) == (128 + number, [LAST_LINES[number]])


def test_a_signal_raises_no_exception_during_an_import(tmp_path: Path) -> None:
    """A stage exits at once while a module is imported, as an exception in TensorFlow's import aborts the process."""
    (tmp_path / "slow.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
    body = (
        f"import sys\nsys.path.append({str(tmp_path)!r})\n"
        "try:\n    import slow\nfinally:\n    print('raised', flush=True)"
    )
    with started(command(body, grace=60)) as process:
        process.send_signal(signal.SIGTERM)
        output, stderr = process.communicate(timeout=60)
    assert (process.returncode, output, stderr) == (143, "", f"{LAST_LINES[signal.SIGTERM]}\n")


@pytest.mark.parametrize(("failure", "code", "lines"), [("", 0, []), ("raise errors.DataError('bad')", 65, ["bad"])])
def test_a_signal_after_the_work_changes_nothing(failure: str, code: int, lines: list[str]) -> None:
    """A signal while Python shuts down does not change the exit code."""
    body = (
        "import atexit\ndef last():\n    print('started', flush=True)\n    time.sleep(0.5)\n"
        f"atexit.register(last)\n{failure}"
    )
    with started(command(body)) as process:
        assert ending(process, signal.SIGTERM) == (code, lines)


@pytest.mark.parametrize("package", ["tasks", "baselines"])
def test_importing_stages_changes_no_signal(package: str) -> None:
    """Signal handlers change only when a stage is run."""
    program = f"import signal, {package}; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "True\n"
