"""Records: every verdict on a candidate as a row of `artifacts/promote/promotions.csv`, which Git and DVC ignore.

A promotion's row is also in its tag, so that a clone, or a process that was killed before it wrote the row, has it.
"""

import csv
import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from transfer.prediction.versions import Assignment
from transfer.runtime import files, locks, paths, spreadsheets
from transfer.runtime.errors import DataError, LockedError

FILE = paths.artifact("promote", "promotions.csv")
_DIGITS = 6
_NUMBER = re.compile(r"-?[\d.]+(e-\d+)?")
_ATTEMPTS, _PAUSE = 100, 0.1  # of taking the lock; seconds


class Record(NamedTuple):
    """A verdict as text; a number that was not computed is empty.

    Attributes:
        time: in UTC.
        verdict: `promoted` or `refused`.
        run: the saved run's name.
        commit: the saved run's.
        version: the version it became; empty if it was refused.
        champion: the version in production before; empty without one.
        accuracy: on the test split.
        champion_accuracy: likewise.
        log_loss: on the test split.
        champion_log_loss: likewise.
        difference_low: lower end of the interval of the difference in log loss.
        difference_high: upper end.
        test_photographs: number of photographs in the test split.
        test_split: SHA-256 of the test split.
        reason: a sentence.
    """

    time: str
    verdict: str
    run: str
    commit: str
    version: str
    champion: str
    accuracy: str
    champion_accuracy: str
    log_loss: str
    champion_log_loss: str
    difference_low: str
    difference_high: str
    test_photographs: str
    test_split: str
    reason: str

    @property
    def details(self) -> str:
        """The record as a line of JSON, for a tag."""
        return json.dumps(self._asdict(), ensure_ascii=False)


def number(value: Any) -> str:
    """Return a number as the text of a record; empty for None."""
    return "" if value is None else str(round(value, _DIGITS))


def read() -> list[Record]:
    """Return all verdicts, the oldest first.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with FILE.open(encoding="utf-8", newline="") as file:
            rows = [{name: spreadsheets.unprotect(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
            return [Record(**row) for row in rows]
    except FileNotFoundError:
        return []
    except (TypeError, AttributeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{FILE} must have the columns {', '.join(Record._fields)}. Received: {error}. Move the file away."
        ) from None


def add(new: Iterable[Record]) -> list[Record]:
    """Add verdicts that are not recorded yet; return all, the oldest first.

    Raises:
        LockedError: another process is writing the file.
        DataError: the file is damaged.
    """
    with _locked():
        known = read()
        missing = [record for record in new if record not in known]
        if missing:
            known = sorted([*known, *missing], key=lambda record: record.time)  # two may have the same second
            rows = [[_cell(text) for text in record] for record in known]
            files.write_csv(FILE, Record._fields, rows)
    return known


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the file's lock during the block; others hold it for less than a second."""
    with ExitStack() as lock:
        for attempt in range(_ATTEMPTS):
            try:
                lock.enter_context(locks.exclusive(paths.scratch("promotions.lock"), busy=f"{FILE} is being written."))
                break
            except LockedError:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE)
        yield


def _cell(text: str) -> str:
    """Return the text of a cell; a negative number is no formula."""
    return text if _NUMBER.fullmatch(text) else spreadsheets.protect(text)


def of(assignments: Iterable[Assignment]) -> list[Record]:
    """Return the verdicts in the tags of promotions; a rollback's tag has none."""
    return [record for assignment in assignments if (record := _parse(assignment.details))]


def _parse(details: str) -> Record | None:
    try:
        content = json.loads(details)
        return Record(**content) if all(isinstance(value, str) for value in content.values()) else None
    except (ValueError, TypeError, AttributeError):
        return None


def judgements(records: Iterable[Record], test_split: str) -> int:
    """Count the verdicts that were scored on a test split: each makes its scores a little more optimistic."""
    return sum(record.test_split == test_split and bool(record.accuracy) for record in records)
