"""Competition: the unlabelled test photographs in the archive of one of Kaggle's competitions, and its sample."""

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from transfer.runtime.errors import DataError
from transfer.sources import archives

LABELS, PROBABILITIES = "dogs-vs-cats", "dogs-vs-cats-redux-kernels-edition"  # what each one wants
NAMES = (LABELS, PROBABILITIES)

_TESTS = ("test1", "test")  # of the first and the later competition: folders, and archives of that name
_SAMPLES = frozenset({"samplesubmission.csv", "sample_submission.csv"})
_MAX_SAMPLE = 1 << 24  # bytes


class Sample(NamedTuple):
    """The content of a sample submission: the names of its two columns, and the photographs' ids in its order."""

    columns: tuple[str, str]
    ids: list[str]


class TestSet(NamedTuple):
    """The test photographs of a competition.

    Attributes:
        archive: an open archive that has them.
        photographs: their members, by id.
        sample: the sample submission.
    """

    archive: zipfile.ZipFile
    photographs: dict[str, zipfile.ZipInfo]
    sample: Sample


@contextmanager
def open_test_set(path: Path, *, limits: archives.Limits, scratch: Path) -> Iterator[TestSet]:
    """Open the archive of a competition, and check that each id of its sample has a photograph.

    Args:
        path: the archive, with `test1.zip` or `test.zip`, or a folder of that name, and a sample submission.
        limits: of each archive.
        scratch: a folder for the inner archive, which is removed after the block.

    Raises:
        DataError: an archive is damaged, hostile or too large, lacks one of the two, or they do not belong together.
        DiskError: the disk has too little space, or fails.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with archives.open_archive(path, limits=limits) as outer, tempfile.TemporaryDirectory(dir=scratch) as folder:
        members = [member for member in outer.infolist() if not member.is_dir()]
        sample = _read_sample(outer, _only(members, _SAMPLES, path))
        inner = [member for member in members if PurePosixPath(member.filename).name in {f"{n}.zip" for n in _TESTS}]
        if not inner:
            yield _checked(outer, sample, path)
            return
        name, unpacked = f"{path.name}/{inner[0].filename}", Path(folder, "test.zip")
        archives.unpack(outer, inner[0], unpacked, limits=limits, name=name)
        with archives.open_archive(unpacked, limits=limits, name=name) as archive:
            yield _checked(archive, sample, path)


def _checked(archive: zipfile.ZipFile, sample: Sample, path: Path) -> TestSet:
    found = [
        member for member in archives.photographs(archive) if set(PurePosixPath(member.filename).parts) & {*_TESTS}
    ]
    photographs = {PurePosixPath(member.filename).stem: member for member in found}
    missing, unknown = sorted({*sample.ids} - {*photographs}), sorted({*photographs} - {*sample.ids})
    if missing or unknown or len(photographs) < len(found):
        raise DataError(
            f"{path.name} must have one test photograph for each of the {len(sample.ids):,} ids in its sample "
            f"submission. Received: {len(found):,} photographs{_examples('none for', missing)}"
            f"{_examples('more ids', unknown)}. Download the archive again."
        )
    return TestSet(archive, photographs, sample)


def _examples(words: str, ids: list[str]) -> str:
    return f", {words} {', '.join(map(repr, ids[:3]))}" if ids else ""


def _only(members: list[zipfile.ZipInfo], names: frozenset[str], path: Path) -> zipfile.ZipInfo:
    found = [member for member in members if PurePosixPath(member.filename).name.lower() in names]
    if len(found) != 1:
        raise DataError(
            f"{path.name} must have one sampleSubmission.csv, as Kaggle's archive has. Received: {len(found)}. "
            "Name the archive of the competition, or none: then it is downloaded."
        )
    return found[0]


def _read_sample(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Sample:
    try:
        text = archives.read_member(archive, member, most=_MAX_SAMPLE).decode()
        columns, *rows = [tuple(row) for row in csv.reader(io.StringIO(text))]
    except (ValueError, csv.Error):
        columns, rows = (), []
    ids = [row[0] for row in rows if len(row) == 2]
    if len(columns) != 2 or not ids or len(ids) != len(rows) or len({*ids}) < len(ids):
        raise DataError(
            f"{member.filename} must be CSV with two columns and an id in each row. Received: {member.file_size:,} "
            "bytes of something else. Download the archive again."
        )
    return Sample((columns[0], columns[1]), ids)
