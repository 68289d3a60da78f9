import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from transfer.runtime.errors import DataError
from transfer.sources import archives, competition

LIMITS = archives.Limits(members=1000, gigabytes=1, expansion=100)
SAMPLE = "id,label\n2,0\n1,0\n10,0\n"


def pack(members: dict[str, bytes | str]) -> bytes:
    """The bytes of a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def photographs(folder: str, ids: Sequence[str]) -> dict[str, bytes | str]:
    """Members that look like photographs."""
    return {f"{folder}/{each}.jpg": f"photograph {each}" for each in ids}


@pytest.mark.parametrize(
    ("test", "sample"), [("test1", "sampleSubmission.csv"), ("test", "sample_submission.csv")], ids=["first", "later"]
)
@pytest.mark.parametrize("nested", [True, False])
def test_photographs_are_found_by_id(tmp_path: Path, test: str, sample: str, nested: bool) -> None:  # noqa: FBT001
    """Kaggle's archives have a test archive and a sample, whose ids and columns are read; training photographs are not.

    An archive that a user has packed again, without the inner archives, is read too.
    """
    tests, train = photographs(test, ["1", "2", "10"]), photographs("train", ["cat.0", "dog.0"])
    inner: dict[str, bytes | str] = {f"{test}.zip": pack(tests), "train.zip": pack(train)} if nested else tests | train
    (tmp_path / "a.zip").write_bytes(pack({sample: SAMPLE, **inner}))
    with competition.open_test_set(tmp_path / "a.zip", limits=LIMITS, scratch=tmp_path / "scratch") as found:
        assert found.sample == (("id", "label"), ["2", "1", "10"])
        assert {*found.photographs} == {"1", "2", "10"}
        assert archives.read_member(found.archive, found.photographs["10"], most=100) == b"photograph 10"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"test1.zip": pack(photographs("test1", ["1"]))}, "one sampleSubmission.csv.* Received: 0"),
        ({"sampleSubmission.csv": SAMPLE, **photographs("test1", ["1", "2"])}, "2 photographs, none for '10'"),
        ({"sampleSubmission.csv": SAMPLE, **photographs("test1", ["1", "2", "10", "3"])}, "more ids '3'"),
        ({"sampleSubmission.csv": "id,label\n1,0\n1,0\n", **photographs("test1", ["1"])}, "an id in each row"),
        ({"sampleSubmission.csv": b"\xff\xfe", **photographs("test1", ["1"])}, "an id in each row"),
        ({"sampleSubmission.csv": SAMPLE, "test1.zip": b"no archive"}, "must be a complete zip archive"),
        ({"sampleSubmission.csv": SAMPLE, "../1.jpg": b""}, "plain files inside it"),
    ],
    ids=["no sample", "too few", "too many", "an id twice", "no text", "a damaged inner archive", "outside"],
)
def test_other_archives_are_refused(tmp_path: Path, members: dict[str, bytes | str], message: str) -> None:
    """An archive whose photographs are not those of its sample gives no submission."""
    (tmp_path / "a.zip").write_bytes(pack(members))
    with (
        pytest.raises(DataError, match=message),
        competition.open_test_set(tmp_path / "a.zip", limits=LIMITS, scratch=tmp_path / "scratch"),
    ):
        pass
