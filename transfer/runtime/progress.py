"""Progress of long work: a bar with rate and remaining time in a terminal, a line every few seconds elsewhere."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS_BEFORE_LINES = 1
SECONDS_BETWEEN_LINES = 15

_KNOWN = (
    "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}{unit} in {elapsed}, {rate_noinv_fmt}, {remaining} left{postfix}"
)
_UNKNOWN = "{desc}: {n_fmt}{unit} in {elapsed}, {rate_noinv_fmt}"
_PERCENTAGE = re.compile(r"\w+: (\d+) %, ")


def parse_percentage(line: str) -> int | None:
    """Return the percentage, 0 to 100, in a line that `bar` writes outside a terminal; None for any other line."""
    match = _PERCENTAGE.match(line)
    return int(match[1]) if match else None


class _Lines(tqdm):  # type: ignore[type-arg]
    """A tqdm that writes a plain line every few seconds, and a last one, instead of redrawing one line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        line = str(self) if msg is None else msg
        if line:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self.disable and self.n != self.last_print_n and time.time() - self.start_t >= SECONDS_BEFORE_LINES:
            self.display()
        self.leave = False  # else tqdm writes an empty line after the last one
        super().close()


@contextmanager
def paused() -> Iterator[None]:
    """Hide all bars while the block writes to the terminal."""
    if _in_terminal():
        with tqdm.external_write_mode(file=sys.stderr):
            yield
    else:
        yield


def bar(*, total: int | None, description: str, unit: str, initial: int = 0) -> "tqdm[Any]":
    """Return a progress bar with `update(n)` and `close()`, which is also a context manager.

    Args:
        total: units to do; None if unknown.
        description: the start of the line.
        unit: the unit's name; "B" for bytes, shown with k, M, G.
        initial: units done by an earlier run.
    """
    terminal = _in_terminal()
    kind = tqdm if terminal else _Lines
    return kind(
        total=total,
        desc=description,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        initial=initial,
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else SECONDS_BETWEEN_LINES,
        miniters=1,
        delay=0 if terminal else SECONDS_BEFORE_LINES,
        smoothing=0.3 if terminal else 0,
        bar_format=None if terminal else _KNOWN if total else _UNKNOWN,
    )


def _in_terminal() -> bool:
    """Return whether standard error is a terminal with a known width; others get plain lines."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
