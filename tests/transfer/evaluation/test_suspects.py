import csv
import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pytest

from transfer.evaluation import suspects
from transfer.evaluation.linear_probe import Rows
from transfer.images import manifest

CLASSES = ("cat", "dog", "rabbit")


def photographs(labels: Sequence[int], *, source: str = "") -> list[manifest.Entry]:
    """Return entries of photographs with these class numbers."""
    return [
        manifest.Entry(
            f"photos/{number}.jpg",
            CLASSES[label],
            hashlib.sha256(bytes([number, number >> 8])).hexdigest(),
            8,
            8,
            ("train", "validation", "test")[number % 3],
            source and f"{source}/{number}.jpg",
        )
        for number, label in enumerate(labels)
    ]


def clusters(truth: Sequence[int], *, distance: float = 1.5) -> Rows:
    """Return features in which each class is a cluster of its own."""
    centres = np.eye(len(CLASSES), 16) * distance * 4
    return np.random.default_rng(0).normal(centres[np.asarray(truth)]).astype(np.float32)


def with_wrong_labels(truth: Sequence[int], wrong: Sequence[int]) -> list[int]:
    """Return class numbers of which some are wrong."""
    return [(label + 1) % (max(truth) + 1) if number in wrong else label for number, label in enumerate(truth)]


@pytest.mark.parametrize("classes", [2, 3])
def test_wrong_labels_come_first(classes: int) -> None:
    """Photographs in the wrong class are found in every split, with their own class as the suggestion."""
    truth = [number % classes for number in range(240)]
    wrong = [5, 17, 60, 61, 100, 101, 150, 233]
    found = suspects.find(photographs(with_wrong_labels(truth, wrong)), clusters(truth), CLASSES[:classes])
    first = {int(each.photograph.path[7:-4]): each.suggested for each in found[: len(wrong)]}
    assert first == {number: CLASSES[truth[number]] for number in wrong}
    assert {each.photograph.split for each in found} == {"train", "validation", "test"}
    assert all(0.5 < each.probability <= 1 for each in found[: len(wrong)])


def test_wrong_labels_of_a_small_class_are_found() -> None:
    """A class of eight photographs among two hundred has its one wrong label found, and its others left alone."""
    truth = [0] * 200 + [1] * 8
    found = suspects.find(photographs(with_wrong_labels(truth, [3, 204])), clusters(truth), CLASSES[:2])
    assert {each.photograph.path for each in found} == {"photos/3.jpg", "photos/204.jpg"}


def test_no_label_is_suspected_without_a_reason() -> None:
    """Classes that are told apart have no suspects, and photographs that all look the same have none either."""
    truth = [number % 2 for number in range(60)]
    entries = photographs(truth)
    assert suspects.find(entries, clusters(truth, distance=5), CLASSES[:2]) == []
    assert suspects.find(entries, np.ones((60, 4), np.float32), CLASSES[:2]) == []


def test_suspects_do_not_depend_on_the_order_of_the_photographs() -> None:
    """The manifest's order changes nothing."""
    truth = [number % 2 for number in range(120)]
    entries, rows = photographs(with_wrong_labels(truth, [5, 50])), clusters(truth, distance=0.6)
    order = np.random.default_rng(1).permutation(120)
    first = suspects.find(entries, rows, CLASSES[:2])
    second = suspects.find([entries[index] for index in order], rows[order], CLASSES[:2])
    assert len(first) > 2
    assert [each.photograph for each in first] == [each.photograph for each in second]


def test_the_table_can_be_marked_up() -> None:
    """suspects.csv has rank, file, class and suggestion of each, no formula, and empty columns to fill in."""
    [entry] = photographs([0], source="=inbox")
    text = suspects.table([suspects.Suspect(entry, "dog", 0.98765)])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {
            "rank": "1",
            "sha256": entry.sha256,
            "path": "photos/0.jpg",
            "source": "'=inbox/0.jpg",
            "split": "train",
            "class": "cat",
            "suggested": "dog",
            "probability": "0.9877",
            "decision": "",
            "note": "",
        }
    ]
