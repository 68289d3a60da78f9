import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from transfer.runtime import signals

REPOSITORY = Path(signals.__file__).parents[2]
PROGRAM = """\
import hashlib, os, signal, time
from concurrent.futures import ThreadPoolExecutor
from transfer.runtime import signals, stage
interruption.GRACE, interruption._LOOK = {grace}, 0.05
signals.exit_on_signals()
def sleep(seconds):
    print("begun", flush=True)
    time.sleep(seconds)
def main():
{body}
stage.run(main)
"""
# An operation of minutes that Python cannot interrupt.
BUSY = 'print("begun", flush=True)\nhashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)'
ALL = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
LAST_WORDS = {
    signal.SIGHUP: "The terminal was closed. What was complete is kept; run the same command to go on.",
    signal.SIGINT: "Interrupted. What was complete is kept; run the same command to go on.",
    signal.SIGTERM: "Asked to end. What was complete is kept; run the same command to go on.",
}


def command(body: str, *, grace: float = 5.0) -> list[str]:
    """A stage whose `main` has this body, which sleeps or is busy, and says that it has begun when it is there."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return [sys.executable, "-c", PROGRAM.format(grace=grace, body=indented)]


@contextmanager
def begun(command: list[str], **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Have a process that has said that it has begun; it is over when the block is."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Exit code and words of a process that has ten seconds to end."""
    _, said = process.communicate(timeout=10)
    return process.returncode, said.splitlines()


def asked(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, list[str]]:
    """Exit code and words of a process that is asked to end."""
    process.send_signal(number)
    return ended(process)


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_a_request_to_end_is_answered(number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end a stage with the shell's code for it and a way to go on, no more."""
    with begun(command("sleep(60)")) as process:
        assert asked(process, number) == (128 + number, [LAST_WORDS[number]])


@pytest.mark.reliability(
    "killed", "asked to end within a long operation", "ends within 10 s all the same, with the same last line"
)
@pytest.mark.parametrize(
    "body",
    [BUSY, "with ThreadPoolExecutor() as pool:\n    pool.submit(sleep, 60).result()"],
    ids=["operation", "thread"],
)
def test_what_does_not_end_in_time_is_left(body: str) -> None:
    """A process that cannot be interrupted, or waits for a thread that cannot, ends after a while all the same."""
    with begun(command(body, grace=0.2)) as process:
        assert asked(process, signal.SIGTERM) == (143, [LAST_WORDS[signal.SIGTERM]])


def test_there_is_time_to_end_in_good_order(tmp_path: Path) -> None:
    """What a stage does when it is interrupted, as removing what it has half written, is waited for."""
    body = f"try:\n    sleep(60)\nfinally:\n    time.sleep(0.3)\n    open({str(tmp_path / 'tidy')!r}, 'w')"
    with begun(command(body)) as process:
        assert asked(process, signal.SIGINT)[0] == 130
    assert (tmp_path / "tidy").exists()


def test_a_second_request_changes_nothing() -> None:
    """Ctrl-C pressed again and again is one request, and cuts off nothing that the first one lets come to its end."""
    body = "try:\n    sleep(60)\nfinally:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.1)"
    with begun(command(body)) as process:
        assert asked(process, signal.SIGTERM) == (143, [LAST_WORDS[signal.SIGTERM]])


def test_what_a_library_makes_of_a_request_does_not_matter() -> None:
    """A library that turns the interruption into an error of its own does not turn the end into a traceback."""
    body = "try:\n    sleep(60)\nexcept BaseException:\n    raise RuntimeError('cancelled')"
    with begun(command(body)) as process:
        assert asked(process, signal.SIGINT) == (130, [LAST_WORDS[signal.SIGINT]])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 0)], ids=["behind &", "under nohup"]
)
def test_a_shell_that_has_a_signal_ignored(number: signal.Signals, code: int) -> None:
    """What asks a stage to end does so behind a shell's `&` too; under `nohup` a stage outlives the terminal."""
    ignoring = (
        f"import os, signal, sys; signal.signal({int(number)}, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with begun([sys.executable, "-c", ignoring, *command("sleep(1)")]) as process:
        assert asked(process, number)[0] == code


ORPHANED = """\
import os, subprocess, sys
stage = subprocess.Popen(sys.argv[1:])
stage.wait()
"""


@pytest.mark.reliability(
    "killed", "`kill -9` of `dvc repro` while a stage runs", "the stage notices within seconds and ends, saying so"
)
@pytest.mark.parametrize("body", ["sleep(60)", BUSY], ids=["sleep", "operation"])
def test_a_stage_ends_with_its_dvc(body: str) -> None:
    """A stage whose DVC was killed does not go on beside the next one."""
    with begun([sys.executable, "-c", ORPHANED, *command(body, grace=0.2)], DVC_STAGE="split") as dvc:
        dvc.kill()
        said = dvc.communicate(timeout=10)[1].splitlines()  # by the stage, at whose end the pipe is closed
    assert said == ["The DVC that started this has ended.", LAST_WORDS[signal.SIGTERM]]


def test_without_dvc_a_stage_outlives_who_started_it(tmp_path: Path) -> None:
    """Started by hand in the background, a stage goes on when the shell is left."""
    body = f"sleep(0.5)\nopen({str(tmp_path / 'done')!r}, 'w')"
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    with begun(["env", "-u", "DVC_STAGE", sys.executable, "-c", ORPHANED, *command(body)], **environment) as shell:
        shell.kill()
        shell.communicate(timeout=10)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_before_the_work_has_begun_a_request_is_answered_on_the_spot(number: signal.Signals) -> None:
    """Also while imports are under way, with standard error silenced, there is the last line and no traceback."""
    program = (
        "import os, time\nfrom transfer.runtime import signals\nsignals.exit_on_signals()\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\nprint('begun', flush=True)\ntime.sleep(60)"
    )
    with begun([sys.executable, "-c", program]) as process:
        assert asked(process, number) == (128 + number, [LAST_WORDS[number]])


def test_when_the_work_is_done_a_request_changes_nothing() -> None:
    """Asked to end while Python tidies up behind it, a process ends with the code that it had."""
    program = (
        "import sys, time\nfrom transfer.runtime import signals\nsignals.exit_on_signals()\n"
        "class Last:\n    def __del__(self):\n        print('begun', flush=True)\n        time.sleep(0.5)\n"
        "last = Last()\nsys.exit(65)"
    )
    with begun([sys.executable, "-c", program]) as process:
        assert asked(process, signal.SIGTERM) == (65, [])


@pytest.mark.parametrize("package", ["tasks", "ladder"])
def test_importing_stages_changes_no_signal(package: str) -> None:
    """Only where a stage is what is run do its package's signals mean the stage's end."""
    program = f"import signal, {package}; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "True\n"


def open_files() -> int:
    """How many files this process has open."""
    return psutil.Process().num_fds()


def test_afterwards_signals_mean_what_they_did() -> None:
    """A block that nobody interrupted leaves nothing behind in the process, whether or not it failed."""
    before = [signal.getsignal(number) for number in ALL]
    files = open_files()
    with signals.handle_signals():
        pass
    with pytest.raises(ZeroDivisionError), signals.handle_signals():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in ALL] == before
    deadline = time.monotonic() + 10
    while open_files() > files:
        assert time.monotonic() < deadline
        time.sleep(0.01)
