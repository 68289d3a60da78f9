from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfer.features import cluster_job, extraction, store
from transfer.features.cluster_job import Batch, WorkerError
from transfer.features.views import Shot
from transfer.images import manifest

SHAPES = [(2, 2, 3), (1, 1, 3)]
ROW = store.Row(np.ones((2, 2, 3), np.float16), np.ones((1, 1, 3), np.float16))
ANSWER = [[("<f2", part.shape, part.tobytes()) for part in ROW]]


def shots(number: int, views: int) -> list[Shot]:
    """Return all views of a photograph."""
    entry = manifest.Entry(f"{number}.jpg", "cat", f"{number:064}", 1, 1)
    return [Shot(entry, view) for view in range(views)]


def test_batches_have_limits_of_views_and_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has at most eight views, and its photographs at most some bytes, or it has one photograph."""
    monkeypatch.setattr(cluster_job, "MAX_BYTES", 100)
    for number, size in enumerate([40, 40, 40, 200, 10]):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(size))
    views = [shot for number in range(5) for shot in shots(number, 3)]
    batches = cluster_job.make_batches(views, folder=tmp_path)
    assert [shot for batch in batches for shot in batch] == views
    assert [[shot.photograph.path[0] for shot in batch] for batch in batches] == [
        ["0", "0", "0", "1", "1", "1"],
        ["2", "2", "2"],
        ["3", "3", "3"],
        ["4", "4", "4"],
    ]
    many = cluster_job.make_batches(shots(0, 2 * extraction.BATCH + 1), folder=tmp_path)
    assert [len(batch) for batch in many] == [8, 8, 1]


def test_a_batch_is_divided_when_it_was_lost_twice() -> None:
    """It is sent again once, then each photograph with its views, alone; one that is lost again is not sent."""
    batch = Batch([*shots(0, 2), *shots(1, 1)])
    (again,) = cluster_job.after_loss(batch)
    assert again.shots == batch.shots
    assert not cluster_job.is_suspect(again)
    divided = cluster_job.after_loss(again)
    assert [part.shots for part in divided] == [shots(0, 2), shots(1, 1)]
    assert all(map(cluster_job.is_suspect, divided))
    assert [cluster_job.after_loss(part) for part in divided] == [[], []]
    (alone,) = cluster_job.after_loss(Batch(shots(0, 2), losses=1))
    assert alone.shots == shots(0, 2)
    assert cluster_job.is_suspect(alone)


def test_an_answer_is_rows() -> None:
    """A worker's plain data are arrays again."""
    (row,) = cluster_job.to_rows(ANSWER, count=1, shapes=SHAPES)
    for part, expected in zip(row, ROW, strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == np.float16


@pytest.mark.reliability(
    "tampered", "an answer of a worker that is no rows of finite numbers", "the worker is checked again"
)
@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        [None],
        ANSWER * 2,
        [ANSWER[0][:1]],
        [[("<f4", *ANSWER[0][0][1:]), ANSWER[0][1]]],
        [[ANSWER[0][1], ANSWER[0][0]]],
        [[("<f2", (2, 2, 3), b"short"), ANSWER[0][1]]],
        [[("<f2", (2, 2, 3), np.full(12, np.nan, "<f2").tobytes()), ANSWER[0][1]]],
    ],
)
def test_a_wrong_answer_is_an_error(answer: Any) -> None:
    """Another number of rows, type, shape or size, and numbers that are not finite, are errors of the worker."""
    with pytest.raises(WorkerError, match=r"must be .* Received: "):
        cluster_job.to_rows(answer, count=1, shapes=SHAPES)


def test_another_version_is_an_error() -> None:
    """The message names what differs, on both sides."""
    here = {"python": "3.11", "numpy": "2.4.6"}
    cluster_job.check_versions(here | {"weights": ""}, here)
    with pytest.raises(WorkerError, match=r"this machine, numpy 2.4.6. Received: numpy 2.0"):
        cluster_job.check_versions({"python": "3.11", "numpy": "2.0"}, here)


def test_known_rows_may_differ_by_rounding() -> None:
    """Each value may be off by one step of float16, as processors sum in different orders; no more."""
    rounded = store.Row(*(np.nextafter(part, np.float16(0)) for part in ROW))
    cluster_job.check_known_rows([rounded], [ROW], tolerance=cluster_job.TOLERANCES["float32"])
    wrong = ROW._replace(pooled=ROW.pooled * np.float16(1.01))
    with pytest.raises(WorkerError, match=r"Received: rows that differ by 9.*e-03"):
        cluster_job.check_known_rows([wrong], [ROW], tolerance=cluster_job.TOLERANCES["bfloat16"])
