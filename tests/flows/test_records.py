from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import records
from flows.records import Record
from transfer.prediction.versions import Assignment
from transfer.runtime.errors import DataError

RECORD = Record(
    time="2026-01-02 03:04:05",
    verdict="promoted",
    run="brave-otter",
    commit="1" * 40,
    version="v2.0.0",
    champion="v1.0.0",
    accuracy="0.98",
    champion_accuracy="0.97",
    log_loss="0.05",
    champion_log_loss="0.07",
    difference_low="-0.03",
    difference_high="-0.01",
    test_photographs="400",
    test_split="a" * 64,
    reason="Better, by far.",
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assignment(details: str) -> Assignment:
    """Return an entry of the registry with the details of a tag."""
    return Assignment(1, "v2.0.0", "1" * 40, datetime.now(UTC), "Better.", details)


def test_verdicts_are_kept_in_order_of_time() -> None:
    """Rows are read as they were added, sorted by time; adding one again changes nothing."""
    assert records.read() == []
    refused = RECORD._replace(time="2026-01-01 00:00:00", verdict="refused", version="", reason="=A1+1")
    records.add([RECORD])
    assert records.add([refused, RECORD]) == records.read() == [refused, RECORD]
    text = records.FILE.read_text()
    assert "'=A1+1" in text  # no spreadsheet computes it
    assert ",-0.03,-0.01," in text


@pytest.mark.reliability(
    "killed",
    "a promotion, between its tag and its row in promotions.csv",
    "the next command takes the row from the tag",
)
def test_a_promotion_s_row_is_in_its_tag() -> None:
    """A row that was never written, as its process was killed, comes from the tag; other texts in tags give none."""
    texts = [RECORD.details, "", "[1]", '{"time": 1}', "no JSON", '{"time": "x"}']
    assert records.of(map(assignment, texts)) == [RECORD]


def test_the_judgements_of_a_test_split_are_counted() -> None:
    """Verdicts with scores on the same photographs count; those of other splits and unscored ones do not."""
    rows = [RECORD, RECORD, RECORD._replace(test_split="b" * 64), RECORD._replace(accuracy="")]
    assert records.judgements(rows, RECORD.test_split) == 2


def test_a_damaged_file_is_reported() -> None:
    """A file without the columns is neither used nor overwritten."""
    records.FILE.parent.mkdir(parents=True)
    records.FILE.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="must have the columns time, verdict"):
        records.add([RECORD])
    assert records.FILE.read_text() == "a,b\n1,2\n"
