import csv
import errno
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import subsample
from tasks.subsample import Photograph, Rejection
from tests import disks
from transfer.images import decoding, manifest, near_duplicates
from transfer.images.decoding import UnreadablePhoto
from transfer.runtime.errors import DataError, ParamsError
from transfer.sources.layouts import Candidate

REPOSITORY = Path(subsample.__file__).parents[1]
OUTPUTS = ("manifest.csv", "metrics.json", "rejected.csv")


def scene(seed: int, *, quality: int = 90, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG whose forms follow from the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def scenes(cats: int, dogs: int) -> dict[str, bytes]:
    """An archive's members: so many different pictures of two classes."""
    names = [f"train/cat.{number}.jpg" for number in range(cats)] + [
        f"train/dog.{number}.jpg" for number in range(dogs)
    ]
    return {name: scene(number) for number, name in enumerate(names)}


def prepare(workspace: Path, members: Mapping[str, bytes], **params: Any) -> None:
    """Lay out what the stage reads."""
    settings = {"photographs": 10, "seed": 0, "near_duplicates": 24} | params
    (workspace / "params.yaml").write_text(f"subsample: {json.dumps(settings)}\n")
    download = workspace / "artifacts" / "download"
    download.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(download / "photos.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def run(workspace: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run the stage as a process."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [*before, sys.executable, "-m", "tasks", "subsample"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)


def made(workspace: Path) -> Path:
    """Where the stage's results are."""
    return workspace / "artifacts" / "subsample"


def choice(workspace: Path, members: Mapping[str, bytes], **params: Any) -> tuple[set[str], dict[str, str]]:
    """Run the stage here: the names taken, and the reasons for those that were not."""
    prepare(workspace, members, **params)
    subsample.main()
    taken = {Path(entry.path).name for entry in manifest.read(made(workspace) / "manifest.csv")}
    with (made(workspace) / "rejected.csv").open(newline="") as file:
        return taken, {row["name"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that is the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_as_many_photographs_as_asked_for_are_taken_half_of_each_class(tmp_path: Path) -> None:
    """Exit code 0, files by class, their bytes unchanged, a manifest that describes them and counts."""
    members = scenes(12, 9)
    prepare(tmp_path, members, photographs=10)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "10 photographs taken, 0 rejected"
    entries = manifest.read(made(tmp_path) / "manifest.csv")
    assert Counter(entry.class_name for entry in entries) == {"cat": 5, "dog": 5}
    assert {entry.path for entry in entries} == {
        path.relative_to(made(tmp_path)).as_posix() for path in (made(tmp_path) / "photos").glob("*/*")
    }
    for entry in entries:
        data = (made(tmp_path) / entry.path).read_bytes()
        assert data == members[f"train/{Path(entry.path).name}"]
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert (entry.width, entry.height) == (64, 48)
        assert Path(entry.path).parts[:2] == ("photos", entry.class_name)
    assert json.loads((made(tmp_path) / "metrics.json").read_text()) == {
        "looked_at": 10,
        "taken": {"cat": 5, "dog": 5},
        "rejected": {"unreadable": 0, "same_bytes": 0, "same_bytes_two_classes": 0, "near_duplicate": 0},
    }
    assert (made(tmp_path) / "rejected.csv").read_text() == "name,reason\n"
    assert sorted(path.name for path in made(tmp_path).iterdir()) == [*OUTPUTS[:2], "photos", OUTPUTS[2]]


def test_the_same_choice_is_made_again_to_the_byte(tmp_path: Path) -> None:
    """Rerunning changes nothing, whatever order the archive has and however many threads decode."""
    members = scenes(9, 9) | {"train/cat.98.jpg": b"", "train/dog.99.jpg": scene(3, quality=40)}
    contents = []
    for order in (sorted(members), sorted(members, reverse=True)):
        prepare(tmp_path, {name: members[name] for name in order}, photographs=16)
        assert run(tmp_path).returncode == 0
        contents.append([(made(tmp_path) / name).read_bytes() for name in OUTPUTS])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("photographs", "expected"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2])])
def test_what_does_not_divide_goes_to_the_first_classes(here: Path, photographs: int, expected: list[int]) -> None:
    """Three classes and seven photographs: classes differ by one at most, the first by name have more."""
    members = {f"{name}/{n}.jpg": scene(10 * c + n) for c, name in enumerate(("bird", "cat", "dog")) for n in range(4)}
    choice(here, members, photographs=photographs)
    taken = json.loads((made(here) / "metrics.json").read_text())["taken"]
    assert list(taken) == ["bird", "cat", "dog"]
    assert list(taken.values()) == expected


def test_more_photographs_contain_the_fewer(here: Path) -> None:
    """Asking for more keeps all that was there, near duplicates between the classes notwithstanding."""
    cats = {f"train/cat.{number}.jpg": scene(number) for number in range(20)}
    dogs = {f"train/dog.{number}.jpg": scene(number + 12, quality=60) for number in range(20)}  # 12 to 19 are cats too
    smaller: set[str] = set()
    for photographs in range(2, 26):
        taken, _ = choice(here, cats | dogs, photographs=photographs)
        assert smaller < taken
        assert len(taken) == photographs
        smaller = taken


def test_another_seed_is_another_choice(here: Path) -> None:
    """The seed decides which photographs are taken."""
    choices = [choice(here, scenes(12, 12), photographs=8, seed=seed)[0] for seed in (0, 1)]
    assert choices[0] != choices[1]


def test_more_candidates_keep_their_order(here: Path) -> None:
    """Adding photographs to the archive may put new ones in, but never changes the order of the old ones."""
    few, _ = choice(here, scenes(12, 12), photographs=24)
    more = scenes(12, 12) | {
        f"train/{name}.{number}.jpg": scene(100 + number) for name in ("cat",) for number in (50, 51)
    }
    smaller, _ = choice(here, scenes(12, 12), photographs=12)
    with_more, _ = choice(here, more, photographs=12)
    assert len(few) == 24
    assert with_more - {"cat.50.jpg", "cat.51.jpg"} <= smaller


UNREADABLE = {
    "empty": (b"", "unreadable: empty file"),
    "no picture": (b"<html>not found</html>", "unreadable: not one of JPEG, PNG, GIF, BMP, WEBP"),
    "cut short": (scene(99)[:500], "unreadable: cut short or damaged ("),
}


@pytest.mark.reliability("photographs", "empty", "rejected as `unreadable`, and replaced by the next of its class")
@pytest.mark.reliability("photographs", "truncated", "rejected as `unreadable`, and replaced by the next of its class")
@pytest.mark.reliability(
    "photographs",
    "text, HTML or `Thumbs.db` named .jpg",
    "rejected as `unreadable`, and replaced by the next of its class",
)
@pytest.mark.parametrize(("data", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_photograph_that_cannot_be_read_is_replaced_by_the_next(here: Path, data: bytes, reason: str) -> None:
    """The number asked for is the number delivered; the bad one is listed with its reason."""
    first = min(choice(here, scenes(8, 8), photographs=2)[0])
    taken, rejected = choice(here, scenes(8, 8) | {f"train/{first}": data}, photographs=10)
    assert len(taken) == 10
    assert first not in taken
    assert rejected[f"train/{first}"].startswith(reason)
    assert len(rejected) == 1
    assert json.loads((made(here) / "metrics.json").read_text())["rejected"]["unreadable"] == 1
    assert json.loads((made(here) / "metrics.json").read_text())["looked_at"] == 11


@pytest.mark.reliability(
    "photographs", "the same photograph under two names", "the first by name stays, the other is `same_bytes`"
)
def test_of_copies_in_one_class_the_first_by_name_stays(here: Path) -> None:
    """The same bytes under two names count once, however many photographs are asked for."""
    members = scenes(10, 10)
    members["train/cat.3.jpg"] = members["train/cat.5.jpg"] = members["train/cat.7.jpg"]
    taken, rejected = choice(here, members, photographs=16)
    assert "cat.3.jpg" in taken
    assert rejected == {f"train/cat.{n}.jpg": "same_bytes: those of train/cat.3.jpg" for n in (5, 7)}
    for photographs in range(2, 16):
        taken, _ = choice(here, members, photographs=photographs)
        assert not taken & {"cat.5.jpg", "cat.7.jpg"}


@pytest.mark.reliability(
    "photographs",
    "the same photograph under two classes",
    "both are dropped as `same_bytes_two_classes`, each with the other's name",
)
def test_copies_under_two_classes_are_all_dropped(here: Path) -> None:
    """A photograph that is said to be a cat and a dog teaches nothing, so neither is believed."""
    members = scenes(10, 10)
    members["train/cat.3.jpg"] = members["train/cat.4.jpg"] = members["train/dog.5.jpg"]
    taken, rejected = choice(here, members, photographs=16)
    assert not taken & {"cat.3.jpg", "cat.4.jpg", "dog.5.jpg"}
    assert rejected == {
        "train/cat.3.jpg": "same_bytes_two_classes: those of train/dog.5.jpg, of class dog",
        "train/cat.4.jpg": "same_bytes_two_classes: those of train/dog.5.jpg, of class dog",
        "train/dog.5.jpg": "same_bytes_two_classes: those of train/cat.3.jpg, of class cat",
    }


def test_empty_files_are_unreadable_and_not_copies(here: Path) -> None:
    """Two empty files are listed for what they are."""
    members = scenes(10, 10) | {"train/cat.3.jpg": b"", "train/dog.5.jpg": b""}
    _, rejected = choice(here, members, photographs=18)
    assert set(rejected.values()) == {"unreadable: empty file"}


def test_the_same_size_and_checksum_is_not_yet_the_same_photograph(tmp_path: Path) -> None:
    """An archive whose index lies about checksums cannot have photographs dropped as copies."""
    path = tmp_path / "photos.zip"
    pixels = [scene(number)[:700] for number in range(2)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in zip(("cat.1.jpg", "cat.2.jpg"), pixels, strict=True):
            archive.writestr(name, data)
    candidates = [Candidate("cat", name, name) for name in ("cat.1.jpg", "cat.2.jpg")]
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("cat.2.jpg").CRC = archive.getinfo("cat.1.jpg").CRC
        assert subsample.copies(archive, candidates) == []


@pytest.mark.reliability(
    "photographs",
    "one photograph saved twice, in another quality",
    "the second is `near_duplicate`, with the first's name",
)
def test_a_photograph_that_looks_like_an_earlier_one_is_dropped(here: Path) -> None:
    """Saved again at another quality it would be in training and test at once; the reason names the other one."""
    again = {f"train/cat.9{number}.jpg": scene(number, quality=50) for number in range(8)}
    taken, rejected = choice(here, scenes(8, 8) | again, photographs=16)
    twins = {f"train/cat.{number}.jpg": f"train/cat.9{number}.jpg" for number in range(8)}
    twins |= {twin: name for name, twin in twins.items()}
    assert rejected
    for name, reason in rejected.items():
        assert Path(twins[name]).name in taken
        assert reason.startswith(f"near_duplicate: of {twins[name]}, ")
        assert reason.endswith(" of 256 bits differ")


def test_how_alike_is_too_alike_can_be_chosen(here: Path) -> None:
    """0 drops only what has the very same hash; null does not look at all, not even at that."""
    brighter = Image.fromarray(np.asarray(decoding.decode(scene(2))) // 2 + 100)
    file = io.BytesIO()
    brighter.save(file, "PNG")
    members = scenes(2, 3) | {"train/cat.90.jpg": file.getvalue(), "train/cat.91.jpg": file.getvalue() + b"\0"}
    candidates = sorted(name for name in members if "cat" in name)
    assert (
        near_duplicates.perceptual_hash(decoding.decode(members["train/cat.90.jpg"])).tolist()
        == near_duplicates.perceptual_hash(decoding.decode(members["train/cat.91.jpg"])).tolist()
    )
    assert len(candidates) == 4
    assert [len(choice(here, members, photographs=5, near_duplicates=bits)[1]) for bits in (0, None)] == [1, 0]


def test_names_that_a_file_system_may_refuse_are_made_safe(here: Path) -> None:
    """Photographs of odd names are taken under names that work everywhere; what is in the archive is told as it is."""
    members = {"cat/what?*.jpg": scene(0), "cat/A.JPG": scene(1), "cat/a.jpg": scene(2), "cat/b.jpg": b""}
    taken, rejected = choice(here, members | {f"dog/{n}.jpg": scene(10 + n) for n in range(3)}, photographs=6)
    assert len({name.casefold() for name in taken}) == 6
    assert {Path(name).suffix for name in taken} == {".jpg", ".JPG"}
    assert "cat.what__.jpg" in taken
    assert set(rejected) <= {"cat/b.jpg"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"photographs": 1}, "`subsample.photographs` must be greater than or equal to 2. Received: 1"),
        ({"photographs": 10.0}, "`subsample.photographs` must be a valid integer. Received: 10.0"),
        ({"seed": -1}, "`subsample.seed` must be greater than or equal to 0. Received: -1"),
        ({"near_duplicates": 65}, "`subsample.near_duplicates` must be less than or equal to 64. Received: 65"),
        ({"near_duplicates": -1}, "`subsample.near_duplicates` must be greater than or equal to 0. Received: -1"),
        ({"photos": 5}, "`subsample.photos` is not a parameter; `subsample` has `photographs`, `seed`,"),
    ],
)
def test_wrong_params_are_refused_before_anything_else(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    """Exit code 78 and the name, even without an archive."""
    prepare(tmp_path, {}, **params)
    (tmp_path / "artifacts" / "download" / "photos.zip").unlink()
    ended = run(tmp_path)
    assert ended.returncode == 78
    assert ended.stderr.startswith(message)


def test_more_photographs_than_there_are_is_a_wrong_param(tmp_path: Path) -> None:
    """Exit code 78 with what is possible and what came, told before anything is decoded: these are no photographs."""
    prepare(tmp_path, {f"train/{name}.{n}.jpg": b"x%d" % n for name in ("cat", "dog") for n in range(4)}, photographs=9)
    ended = run(tmp_path)
    assert ended.returncode == 78
    assert ended.stderr == (
        "`subsample.photographs` must be from 2 to 8: every class gives the same number and there are 4 `cat`, "
        "4 `dog`. Received: 9\n"
    )


def test_fewer_photographs_than_classes_is_a_wrong_param(here: Path) -> None:
    """Each class needs one at least."""
    prepare(here, {f"{name}/1.jpg": scene(n) for n, name in enumerate(("bird", "cat", "dog"))}, photographs=2)
    with pytest.raises(ParamsError, match=r"`subsample\.photographs` must be from 3 to 3: .* Received: 2$"):
        subsample.main()


def test_what_is_said_to_be_possible_is_possible(here: Path) -> None:
    """Where rejections make the photographs too few, following the messages ends with the largest number that works.

    What is unreadable is known only after decoding, hence the second message.
    """
    members = scenes(8, 6) | {"train/dog.2.jpg": b"", "train/dog.4.jpg": scene(9), "train/cat.7.jpg": scene(0)}
    for photographs, possible, reason in (
        (13, 11, r"2 same_bytes \(train/cat\.7\.jpg: those of train/cat\.0\.jpg\)"),
        (11, 9, r"1 unreadable \(train/dog\.2\.jpg: empty file\)"),
    ):
        prepare(here, members, photographs=photographs)
        with pytest.raises(ParamsError, match=rf"from 2 to {possible}: .*{reason}.* Received: {photographs}$"):
            subsample.main()
    taken, _ = choice(here, members, photographs=9)
    assert len(taken) == 9


@pytest.mark.reliability(
    "photographs",
    "more than half of them rejected",
    "ends with 65 and the reasons, the commonest first with an example",
)
def test_mostly_bad_photographs_fail_the_stage_with_the_reasons(tmp_path: Path) -> None:
    """Exit code 65: a choice from ruins is no choice. The commonest reason comes first, with an example."""
    bad = {f"train/cat.{n}.jpg": b"x%d" % n for n in range(20, 40)} | {"train/dog.20.jpg": b"", "train/dog.21.jpg": b""}
    prepare(tmp_path, scenes(8, 8) | bad, photographs=16)
    ended = run(tmp_path)
    assert ended.returncode == 65
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("At least half of the photographs must be usable. Received: ")
    assert "unreadable (train/" in last
    assert "Mend the photographs or choose another `download.source`." in last
    assert not made(tmp_path).exists()


def test_mostly_near_duplicates_can_be_wanted(here: Path) -> None:
    """Frames of a film fail the stage too; the message names the parameter that lets them pass."""
    film = {f"{name}/{n}.jpg": scene(c, quality=50 + n) for c, name in enumerate(("cat", "dog")) for n in range(10)}
    prepare(here, film, photographs=20)
    with pytest.raises(DataError, match=r"9 near_duplicate .*, or lower `subsample\.near_duplicates`\.$"):
        subsample.main()
    assert len(choice(here, film, photographs=20, near_duplicates=None)[0]) == 20


@pytest.mark.reliability("training", "pictures of one colour", "65: near duplicates, unless params let them through")
def test_pictures_of_one_colour_are_near_duplicates(here: Path) -> None:
    """Whatever their colours, there is nothing to tell such pictures apart by; who wants them has to say so."""
    flat: dict[str, bytes] = {}
    for number in range(20):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (12 * number, 250 - 12 * number, 90)).save(file, "PNG")
        flat[f"{('cat', 'dog')[number % 2]}/{number}.png"] = file.getvalue()
    prepare(here, flat, photographs=20)
    with pytest.raises(DataError, match=r"near_duplicate .*, or lower `subsample\.near_duplicates`\.$"):
        subsample.main()
    assert len(choice(here, flat, photographs=20, near_duplicates=None)[0]) == 20


def test_a_class_without_a_usable_photograph_fails_the_stage(here: Path) -> None:
    """No number of photographs would do, so it is the data's fault."""
    prepare(here, scenes(8, 0) | {"train/dog.1.jpg": b"x"}, photographs=2)
    with pytest.raises(DataError, match=r"none of `dog` without those rejected: 1 unreadable \(train/dog\.1\.jpg: not"):
        subsample.main()


@pytest.mark.parametrize("content", [b"", b"no archive", scene(0)])
def test_an_archive_that_is_none_fails_the_stage(tmp_path: Path, content: bytes) -> None:
    """Exit code 65 and what to do."""
    prepare(tmp_path, {})
    (tmp_path / "artifacts" / "download" / "photos.zip").write_bytes(content)
    ended = run(tmp_path)
    assert ended.returncode == 65
    assert "photos.zip must be a whole zip archive" in ended.stderr.splitlines()[-1]
    assert ended.stderr.rstrip().endswith("dvc repro --single-item --force download`.")


def test_without_an_archive_the_stage_says_what_makes_it(tmp_path: Path) -> None:
    """Exit code 65, no traceback."""
    prepare(tmp_path, {})
    (tmp_path / "artifacts" / "download" / "photos.zip").unlink()
    ended = run(tmp_path)
    assert ended.returncode == 65
    assert ended.stderr.startswith("artifacts/download/photos.zip is missing. `dvc repro`")


def test_a_failure_leaves_the_last_results(tmp_path: Path) -> None:
    """What was made before stays whole."""
    prepare(tmp_path, scenes(4, 4), photographs=6)
    assert run(tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in made(tmp_path).rglob("*") if path.is_file()}
    prepare(tmp_path, scenes(4, 4), photographs=60)
    assert run(tmp_path).returncode == 78
    assert {path: path.read_bytes() for path in made(tmp_path).rglob("*") if path.is_file()} == before


@pytest.mark.reliability("disk", "no room for the photographs", "exit 74 before any is looked at, with what they take")
def test_photographs_that_do_not_fit_are_not_looked_at(tmp_path: Path) -> None:
    """The folder is named with what is needed, nothing is left half, and the next run with room does it."""
    with disks.small(tmp_path / "disk", "size=200k") as disk:
        prepare(disk.path, scenes(9, 9), photographs=16)
        needed = 16 * 4096  # each has a block
        (disk.path / "other").write_bytes(bytes(disks.free(disk) - needed + 8192))
        done = run(tmp_path, *disk.entering)
        assert done.returncode == 74, done.stderr
        assert done.stderr.startswith("The disk of `artifacts/subsample` must have 65.5 kB free. Received: 57.3 kB")
        assert done.stderr.count("\n") == 1
        assert list(disk.path.glob("artifacts/subsample")) == []
        (disk.path / "other").unlink()
        assert run(tmp_path, *disk.entering).returncode == 0
        assert len(list(disk.path.glob("artifacts/subsample/photos/*/*.jpg"))) == 16


def test_what_is_expected_is_what_is_taken(here: Path) -> None:
    """If no candidate is rejected the room asked for is that of the very photographs."""
    prepare(here, scenes(12, 9), photographs=7)
    subsample.main()
    with zipfile.ZipFile(here / "artifacts/download/photos.zip") as archive:
        queues = subsample.ordered(subsample.archives.candidates(archive), seed=0)
    taken = {Path(entry.path).name for entry in manifest.read(made(here) / "manifest.csv")}
    assert {Path(member).name for member in subsample.expected(queues, 7)} == taken


@pytest.mark.reliability("disk", "the disk fails while photographs are read", "exit 74; they are not taken for damaged")
def test_a_disk_that_fails_damages_no_photograph(deflated: zipfile.ZipFile) -> None:
    """An input/output error ends the stage, instead of rejecting one photograph after the other."""

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    deflated.fp = Failing()
    with pytest.raises(OSError, match=r"Input/output error: .*photos\.zip"):
        subsample.contents(deflated, "cat.1.jpg")


@pytest.fixture
def deflated(tmp_path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive with one well-packed member of 100,000 bytes."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat.1.jpg", bytes(100_000))
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_files_too_large_for_a_photograph_are_not_read(
    deflated: zipfile.ZipFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB is the limit; a small archive cannot fill the memory."""
    assert decoding.MAX_BYTES == 64 * 1024 * 1024
    assert len(subsample.contents(deflated, "cat.1.jpg")) == 100_000
    monkeypatch.setattr(decoding, "MAX_BYTES", 99_999)
    with pytest.raises(UnreadablePhoto, match="larger than"):
        subsample.contents(deflated, "cat.1.jpg")


@pytest.mark.parametrize("announced", [1_000, 99_999, 100_001, 10_000_000])
def test_files_of_another_size_than_announced_are_refused(deflated: zipfile.ZipFile, announced: int) -> None:
    """An index that lies about sizes is found out."""
    deflated.getinfo("cat.1.jpg").file_size = announced
    with pytest.raises(UnreadablePhoto, match="in the archive"):
        subsample.contents(deflated, "cat.1.jpg")


def test_bytes_damaged_in_the_archive_are_refused(tmp_path: Path) -> None:
    """What the archive's own checksum finds is a reason like any other."""
    path = tmp_path / "photos.zip"
    data = scene(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.1.jpg", data)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(data[300:310], bytes(10)))
    with zipfile.ZipFile(path) as archive:
        finding = subsample.examine(archive, Candidate("cat", "cat.1.jpg", "cat.1.jpg"))
    assert isinstance(finding, Rejection)
    assert finding.reason == "unreadable"
    assert finding.detail.startswith("damaged in the archive (Bad CRC-32")


def found(class_name: str, count: int, *, first: int = 0) -> Iterator[Photograph]:
    """Findings of photographs that look all different."""
    for number in range(first, first + count):
        name = f"{class_name}.{number}"
        mark = near_duplicates.perceptual_hash(decoding.decode(scene(number)))
        yield Photograph(Candidate(class_name, name, name), name, 64, 48, mark)


def test_nothing_is_looked_at_beyond_what_is_needed() -> None:
    """Classes take turns, and candidates that are not needed are not asked for."""
    cats, dogs = found("cat", 10), found("dog", 10, first=10)
    taken, rejected = subsample.choose([cats, dogs], 5, near_duplicates=24)
    assert [one.sha256 for one in taken] == ["cat.0", "dog.10", "cat.1", "dog.11", "cat.2"]
    assert rejected == []
    assert next(cats).sha256 == "cat.3"


def test_most_is_what_taking_turns_yields() -> None:
    """The largest number that can be asked for, for any numbers of three classes."""
    for available in itertools.product(range(5), repeat=3):
        left = list(available)
        for turn in itertools.count():
            if left[turn % 3] == 0:
                break
            left[turn % 3] -= 1
        assert subsample.most(available) == turn


def test_work_ahead_keeps_its_order_and_its_bounds() -> None:
    """Results come in order; no more than the steps ahead are begun before they are asked for."""
    begun: list[int] = []
    lock = threading.Lock()

    def square(number: int) -> int:
        with lock:
            begun.append(number)
        return number * number

    with ThreadPoolExecutor(3) as pool:
        squares = subsample.ahead(square, range(100), pool, steps=5)
        assert [next(squares) for _ in range(10)] == [number * number for number in range(10)]
        assert len(begun) <= 15
        assert list(squares) == [number * number for number in range(10, 100)]
