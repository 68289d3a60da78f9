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
    """Return the command of a program that does ten times a hundred units in 0.2 s."""
    text = WORK.format(total=total, unit=unit, initial=initial, before=before, between=between)
    return [sys.executable, "-c", text]


def logged(command: list[str]) -> str:
    """Return what a program writes to standard error without a terminal."""
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=True)
    assert result.stdout == b""
    return result.stderr.decode()


def shown(command: list[str], *, columns: int) -> str:
    """Return what a program writes to a terminal."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=slave, stderr=slave):
        os.close(slave)
        text = b""
        try:
            while part := os.read(master, 4096):
                text += part
        except OSError:  # on Linux the other end is closed
            pass
    os.close(master)
    return text.decode()


def rate(line: str) -> float:
    """Return the units per second in a line."""
    return float(line.split(", ")[2].split(" ", maxsplit=1)[0])


def test_a_log_gets_a_plain_line_every_few_seconds() -> None:
    """A line has units done, total, time, rate and remaining time, without carriage returns, colours or empty lines."""
    *lines, end = logged(work(between=0.05)).split("\n")
    assert end == ""
    seconds = 1000 / rate(lines[-1])
    assert 3 <= len(lines) <= seconds / 0.05 + 2
    for line in lines:
        assert re.fullmatch(
            r"Checked: \d+ %, \d+ of 1000 photographs in 00:0\d, [\d.]+ photographs/s, 00:0\d left", line
        ), line


def test_the_last_line_of_a_log_has_the_total() -> None:
    """Work that ends between two lines adds one last line."""
    lines = logged(work()).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Checked: 100 %, 1000 of 1000 photographs")


def test_short_work_is_not_logged() -> None:
    """Work of less than a second adds no line."""
    assert logged(work(before=60)) == ""


def test_bytes_are_shown_with_prefixes() -> None:
    """Downloads count in k, M and G; without a known size there is no remaining time."""
    assert logged(work(unit="B")).startswith("Checked: 100 %, 1.00k of 1.00kB in")
    assert re.fullmatch(r"Checked: 1\.00kB in 00:0\d, [\d.]+kB/s\n", logged(work(total=None, unit="B")))


def test_units_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    """A resumed download shows its position and the current rate."""
    line = logged(work(total=1_000_000, initial=999_000)).splitlines()[-1]
    assert line.startswith("Checked: 100 %, 1000000 of 1000000 photographs")
    assert rate(line) < 1000 / 0.2


def test_a_terminal_gets_a_bar_that_is_redrawn() -> None:
    """A terminal has one line that changes, with percentage, rate and remaining time."""
    text = shown(work(), columns=120)
    assert text.count("\r") > 1
    assert "100%" in text
    assert re.search(r"1000/1000 \[.*photographs/s", text)


def test_a_terminal_without_a_width_gets_lines() -> None:
    """Consoles of containers, which often have no width, get plain lines."""
    assert "Checked: 100 %, 1000 of 1000 photographs" in shown(work(), columns=0)


def test_the_percentage_of_a_line_can_be_parsed() -> None:
    """A reader of a log finds the percentage in lines of progress, and none in other lines."""
    lines = logged(work()).splitlines()
    assert progress.parse_percentage(lines[-1]) == 100
    assert all(0 <= (progress.parse_percentage(line) or 0) <= 100 for line in lines)
    assert progress.parse_percentage("Checked 100 %, they say") is None


def test_other_output_does_not_run_into_a_bar() -> None:
    """Other output has lines of its own in a terminal, and adds no lines of progress to a log."""
    program = (
        "import sys; from transfer.runtime import progress\n"
        "with progress.bar(total=2, description='Checked', unit='photographs') as bar:\n"
        "    with progress.paused(): print('row', file=sys.stderr)\n"
        "    bar.update()\n"
    )
    command = [sys.executable, "-c", program]
    assert logged(command) == "row\n"
    assert shown(command, columns=0) == "row\r\n"
    assert re.search(r"\r *\rrow\r\n", shown(command, columns=100))
