import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from transfer.runtime import progress

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(progress.__file__).parents[2])}

WORK = """
import time
from transfer.runtime import progress
progress.SECONDS_BEFORE_LINES, progress.SECONDS_BETWEEN_LINES = {before}, {between}
with progress.bar(total={total}, description="Checked", unit={unit!r}, initial={initial}) as bar:
    for _ in range(10):
        time.sleep(0.02)
        bar.update(100)
"""


def work(
    *, total: int | None = 1000, unit: str = "photographs", initial: int = 0, before: float = 0.01, between: float = 99
) -> list[str]:
    """A program that does ten times a hundred in 0.2 s."""
    text = WORK.format(total=total, unit=unit, initial=initial, before=before, between=between)
    return [sys.executable, "-c", text]


def said(command: list[str]) -> str:
    """What a program says where there is no terminal."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=True)
    assert done.stdout == b""
    return done.stderr.decode()


def shown(command: list[str], *, columns: int) -> str:
    """What a program shows on a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=theirs, stderr=theirs):
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # Linux's way of saying that the other end is closed
            pass
    os.close(ours)
    return text.decode()


def test_a_log_gets_plain_lines_now_and_then() -> None:
    """Done, of how many, in what time, how fast, how long still; no carriage returns, colours or empty lines."""
    *lines, end = said(work(between=0.05)).split("\n")
    assert end == ""
    assert 3 <= len(lines) <= 6
    for line in lines:
        assert re.fullmatch(
            r"Checked: \d+ %, \d+ of 1000 photographs in 00:0\d, [\d.]+ photographs/s, 00:0\d left", line
        ), line


def test_the_last_line_of_a_log_tells_the_whole() -> None:
    """Between sparse lines work may end: a line at the end says what was done, once."""
    lines = said(work()).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Checked: 100 %, 1000 of 1000 photographs")


def test_short_work_leaves_no_trace_in_a_log() -> None:
    """What takes less than a second is not worth a line."""
    assert said(work(before=1)) == ""


def test_bytes_are_shown_in_units_people_read() -> None:
    """Downloads count in k, M and G; without a known size there is no remainder to promise."""
    assert said(work(unit="B")).startswith("Checked: 100 %, 1.00k of 1.00kB in")
    assert re.fullmatch(r"Checked: 1\.00kB in 00:0\d, [\d.]+kB/s\n", said(work(total=None, unit="B")))


def test_what_was_done_before_counts_as_done_but_not_as_speed() -> None:
    """A resumed download shows where it is, and the rate of now."""
    line = said(work(total=1_000_000, initial=999_000)).splitlines()[-1]
    assert line.startswith("Checked: 100 %, 1000000 of 1000000 photographs")
    rate = float(line.split(", ")[2].split(" ")[0])
    assert rate < 1000 / 0.2


def test_a_terminal_gets_a_bar_that_is_redrawn() -> None:
    """In a terminal one line moves, with percent, rate and remaining time."""
    text = shown(work(), columns=120)
    assert text.count("\r") > 1
    assert "100%" in text
    assert re.search(r"1000/1000 \[.*photographs/s", text)


def test_a_terminal_without_a_width_gets_lines() -> None:
    """Consoles of containers often do not know their width; they are told all the same."""
    assert "Checked: 100 %, 1000 of 1000 photographs" in shown(work(), columns=0)


def test_a_line_can_be_read_again() -> None:
    """What reads a log finds how much is done in the very lines that are said, and nothing in others."""
    lines = said(work()).splitlines()
    assert progress.parse_percentage(lines[-1]) == 100
    assert all(0 <= (progress.parse_percentage(line) or 0) <= 100 for line in lines)
    assert progress.parse_percentage("Checked 100 %, they say") is None


def test_other_output_does_not_run_into_a_bar() -> None:
    """What is written meanwhile has lines of its own in a terminal, and adds no lines of progress elsewhere."""
    program = (
        "import sys; from transfer.runtime import progress\n"
        "with progress.bar(total=2, description='Checked', unit='photographs') as bar:\n"
        "    with progress.set_aside(): print('row', file=sys.stderr)\n"
        "    bar.update()\n"
    )
    command = [sys.executable, "-c", program]
    assert said(command) == "row\n"
    assert shown(command, columns=0) == "row\r\n"
    assert re.search(r"\r *\rrow\r\n", shown(command, columns=100))
