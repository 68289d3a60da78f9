import errno
import io
import itertools
import random
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.images import decoding, near_duplicates, selection
from transfer.images.decoding import UnreadablePhoto
from transfer.images.manifest import Rejected
from transfer.images.selection import Usable
from transfer.sources.layouts import Candidate


def scene(seed: int) -> bytes:
    """Return a JPEG of a random picture with large and small shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def deflated(tmp_path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive with one compressed member of 100,000 bytes."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat.1.jpg", bytes(100_000))
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.reliability(
    "disk", "a read error while photographs are read", "exit 74; photographs are not rejected as damaged"
)
def test_a_read_error_of_the_disk_does_not_reject_photographs(deflated: zipfile.ZipFile) -> None:
    """An input/output error ends the stage, instead of rejecting one photograph after another."""

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    deflated.fp = Failing()
    with pytest.raises(OSError, match=r"Input/output error: .*photos\.zip"):
        selection.read_bytes(deflated, "cat.1.jpg")


def test_files_too_large_for_a_photograph_are_not_read(
    deflated: zipfile.ZipFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is 64 MiB, so a small archive cannot exhaust the memory."""
    assert decoding.MAX_BYTES == 64 * 1024 * 1024
    assert len(selection.read_bytes(deflated, "cat.1.jpg")) == 100_000
    monkeypatch.setattr(decoding, "MAX_BYTES", 99_999)
    with pytest.raises(UnreadablePhoto, match="larger than"):
        selection.read_bytes(deflated, "cat.1.jpg")


@pytest.mark.parametrize("announced", [1_000, 99_999, 100_001, 10_000_000])
def test_files_of_another_size_than_announced_are_unreadable(deflated: zipfile.ZipFile, announced: int) -> None:
    """A member whose size differs from the archive's index is detected."""
    deflated.getinfo("cat.1.jpg").file_size = announced
    with pytest.raises(UnreadablePhoto, match="in the archive"):
        selection.read_bytes(deflated, "cat.1.jpg")


def test_bytes_damaged_in_the_archive_are_unreadable(tmp_path: Path) -> None:
    """A photograph whose bytes do not match the archive's checksum is rejected with that reason."""
    path = tmp_path / "photos.zip"
    data = scene(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.1.jpg", data)
    content = path.read_bytes()
    path.write_bytes(content.replace(data[300:310], bytes(10)))
    with zipfile.ZipFile(path) as archive:
        finding = selection.examine(archive, Candidate("cat", "cat.1.jpg", "cat.1.jpg"))
    assert isinstance(finding, Rejected)
    assert finding.name == "cat.1.jpg"
    assert finding.reason == "unreadable"
    assert finding.detail.startswith("damaged in the archive (Bad CRC-32")


def test_photographs_of_equal_size_and_checksum_are_compared_by_content(tmp_path: Path) -> None:
    """An archive whose index has wrong checksums does not make different photographs copies."""
    path = tmp_path / "photos.zip"
    contents = [scene(number)[:700] for number in range(2)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in zip(("cat.1.jpg", "cat.2.jpg"), contents, strict=True):
            archive.writestr(name, data)
    candidates = [Candidate("cat", name, name) for name in ("cat.1.jpg", "cat.2.jpg")]
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("cat.2.jpg").CRC = archive.getinfo("cat.1.jpg").CRC
        assert selection.find_copies(archive, candidates) == []


def test_items_are_grouped_if_both_keys_are_equal() -> None:
    """The exact key decides, and is computed only for items whose cheap keys are equal."""
    computed: list[str] = []

    def exact_key(word: str) -> str:
        computed.append(word)
        return word.lower()

    words = ["cat", "dog", "CAT", "horse", "Dog", "cat"]
    groups = selection.group_duplicates(words, cheap_key=len, exact_key=exact_key)
    assert groups == [["cat", "CAT", "cat"], ["dog", "Dog"]]
    assert "horse" not in computed


def test_items_without_a_key_are_in_no_group() -> None:
    """Items with the key None are not duplicates, not even of each other."""
    groups = selection.group_duplicates(
        [1, 2, 3, 4], cheap_key=lambda number: None if number < 3 else 0, exact_key=lambda _: None
    )
    assert groups == []


def test_groups_do_not_depend_on_the_order_of_items() -> None:
    """The same groups are found in a random order."""
    numbers = list(range(60))
    random.Random(0).shuffle(numbers)  # noqa: S311 - a test needs no secure randomness
    groups = selection.group_duplicates(numbers, cheap_key=lambda n: n % 4, exact_key=lambda n: n % 20)
    assert sorted(map(sorted, groups)) == [[n, n + 20, n + 40] for n in range(20)]


def usable(class_name: str, count: int, *, first: int = 0) -> Iterator[Usable]:
    """Yield findings of photographs without near duplicates."""
    for number in range(first, first + count):
        name = f"{class_name}.{number}"
        fingerprint = near_duplicates.fingerprint(decoding.decode(scene(number)))
        yield Usable(Candidate(class_name, name, name), name, 64, 48, fingerprint)


def test_no_more_candidates_are_examined_than_needed() -> None:
    """Classes take turns, and findings that are not needed are not requested."""
    cats, dogs = usable("cat", 10), usable("dog", 10, first=10)
    selected, rejected = selection.choose([cats, dogs], 5, near_duplicates=24)
    assert [photograph.sha256 for photograph in selected] == ["cat.0", "dog.10", "cat.1", "dog.11", "cat.2"]
    assert rejected == []
    assert next(cats).sha256 == "cat.3"


def test_the_largest_choice_is_the_number_of_turns() -> None:
    """For any numbers of three classes, it is the number of turns until a class has no photograph left."""
    for available in itertools.product(range(5), repeat=3):
        left = list(available)
        for turn in itertools.count():
            if left[turn % 3] == 0:
                break
            left[turn % 3] -= 1
        assert selection.largest_choice(available) == turn


def test_results_keep_the_order_of_the_items() -> None:
    """Results are in order, and no more items are started ahead of need than allowed."""
    started: list[int] = []
    lock = threading.Lock()

    def square(number: int) -> int:
        with lock:
            started.append(number)
        return number * number

    with ThreadPoolExecutor(3) as pool:
        squares = selection.map_ahead(square, range(100), pool, ahead=5)
        assert [next(squares) for _ in range(10)] == [number * number for number in range(10)]
        assert len(started) <= 15
        assert list(squares) == [number * number for number in range(10, 100)]
