import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import subsample
from tests import disks
from transfer.images import corrections, decoding, manifest, near_duplicates, selection
from transfer.images.corrections import Correction
from transfer.runtime.errors import DataError, ParamsError
from transfer.sources import layouts

REPOSITORY = Path(subsample.__file__).parents[1]
OUTPUTS = ("manifest.csv", "metrics.json", "rejected.csv")


def scene(seed: int, *, quality: int = 90, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a JPEG of a random picture with large and small shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def scenes(cats: int, dogs: int) -> dict[str, bytes]:
    """Return the members of an archive: different pictures of two classes."""
    names = [f"train/cat.{number}.jpg" for number in range(cats)] + [
        f"train/dog.{number}.jpg" for number in range(dogs)
    ]
    return {name: scene(number) for number, name in enumerate(names)}


def prepare(workspace: Path, members: Mapping[str, bytes], **params: Any) -> None:
    """Write params.yaml and the archive that the stage reads."""
    settings = {"photographs": 10, "balance": "equal", "seed": 0, "near_duplicates": 24} | params
    (workspace / "params.yaml").write_text(f"subsample: {json.dumps(settings)}\n")
    download = workspace / "artifacts" / "download"
    download.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(download / "photos.zip", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def run(workspace: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run the stage as a process, with a prefix before its command."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [*prefix, sys.executable, "-m", "tasks", "subsample"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)


def output(workspace: Path) -> Path:
    """Return the output folder of the stage."""
    return workspace / "artifacts" / "subsample"


def choice(workspace: Path, members: Mapping[str, bytes], **params: Any) -> tuple[set[str], dict[str, str]]:
    """Run the stage in this process; return the names selected and the reasons of the rejected ones, by name."""
    prepare(workspace, members, **params)
    subsample.main()
    selected = {Path(entry.path).name for entry in manifest.read(output(workspace) / "manifest.csv")}
    with (output(workspace) / "rejected.csv").open(newline="") as file:
        return selected, {row["name"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workspace that is the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_number_of_photographs_asked_for_is_taken_half_of_each_class(tmp_path: Path) -> None:
    """Exit code 0; files by class with unchanged bytes, a manifest that describes them, and counts in metrics.json."""
    members = scenes(12, 9)
    prepare(tmp_path, members, photographs=10)
    process = run(tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr.splitlines()[-1] == "10 photographs selected, 0 rejected"
    entries = manifest.read(output(tmp_path) / "manifest.csv")
    assert Counter(entry.class_name for entry in entries) == {"cat": 5, "dog": 5}
    assert {entry.path for entry in entries} == {
        path.relative_to(output(tmp_path)).as_posix() for path in (output(tmp_path) / "photos").glob("*/*")
    }
    for entry in entries:
        data = (output(tmp_path) / entry.path).read_bytes()
        assert data == members[f"train/{Path(entry.path).name}"]
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert (entry.width, entry.height) == (64, 48)
        assert Path(entry.path).parts[:2] == ("photos", entry.class_name)
    assert json.loads((output(tmp_path) / "metrics.json").read_text()) == {
        "examined": 10,
        "selected": {"cat": 5, "dog": 5},
        "rejected": {"unreadable": 0, "same_bytes": 0, "same_bytes_two_classes": 0, "near_duplicate": 0, "excluded": 0},
    }
    assert (output(tmp_path) / "rejected.csv").read_text() == "name,reason\n"
    assert sorted(path.name for path in output(tmp_path).iterdir()) == [*OUTPUTS[:2], "photos", OUTPUTS[2]]


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """The outputs do not depend on the order of the archive or on the timing of threads."""
    members = scenes(9, 9) | {"train/cat.98.jpg": b"", "train/dog.99.jpg": scene(3, quality=40)}
    contents = []
    for order in (sorted(members), sorted(members, reverse=True)):
        prepare(tmp_path, {name: members[name] for name in order}, photographs=16)
        assert run(tmp_path).returncode == 0
        contents.append([(output(tmp_path) / name).read_bytes() for name in OUTPUTS])
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("photographs", "expected"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2])])
def test_the_remainder_goes_to_the_first_classes(here: Path, photographs: int, expected: list[int]) -> None:
    """With a number that the classes do not divide, the first classes by name have one photograph more."""
    members = {f"{name}/{n}.jpg": scene(10 * c + n) for c, name in enumerate(("bird", "cat", "dog")) for n in range(4)}
    choice(here, members, photographs=photographs)
    selected = json.loads((output(here) / "metrics.json").read_text())["selected"]
    assert list(selected) == ["bird", "cat", "dog"]
    assert list(selected.values()) == expected


def test_a_smaller_choice_is_part_of_a_larger_one(here: Path) -> None:
    """Asking for more photographs keeps all previous ones, even with near duplicates between the classes."""
    cats = {f"train/cat.{number}.jpg": scene(number) for number in range(20)}
    dogs = {f"train/dog.{number}.jpg": scene(number + 12, quality=60) for number in range(20)}  # 12 to 19 equal cats
    smaller: set[str] = set()
    for photographs in range(2, 26):
        selected, _ = choice(here, cats | dogs, photographs=photographs)
        assert smaller < selected
        assert len(selected) == photographs
        smaller = selected


def test_another_seed_gives_another_choice(here: Path) -> None:
    """Which photographs are selected depends on the seed."""
    choices = [choice(here, scenes(12, 12), photographs=8, seed=seed)[0] for seed in (0, 1)]
    assert choices[0] != choices[1]


def test_additional_candidates_do_not_change_the_order_of_the_others(here: Path) -> None:
    """After photographs are added to the archive, the choice differs from the earlier one by added ones alone."""
    complete, _ = choice(here, scenes(12, 12), photographs=24)
    more = scenes(12, 12) | {
        f"train/{name}.{number}.jpg": scene(100 + number) for name in ("cat",) for number in (50, 51)
    }
    smaller, _ = choice(here, scenes(12, 12), photographs=12)
    with_more, _ = choice(here, more, photographs=12)
    assert len(complete) == 24
    assert with_more - {"cat.50.jpg", "cat.51.jpg"} <= smaller


def test_files_of_other_endings_are_counted(here: Path) -> None:
    """metrics.json has the files that are no photographs by their ending; without any it has no such number."""
    choice(here, scenes(4, 4), photographs=4)
    assert "left_out" not in json.loads((output(here) / "metrics.json").read_text())
    choice(here, scenes(4, 4) | {"train/cat.9.mov": b"?", "train/notes.txt": b"?"}, photographs=4)
    assert json.loads((output(here) / "metrics.json").read_text())["left_out"] == {".mov": 1, ".txt": 1}


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
def test_an_unreadable_photograph_is_replaced_by_the_next(here: Path, data: bytes, reason: str) -> None:
    """The number asked for is selected; the unreadable photograph is in rejected.csv with its reason."""
    first = min(choice(here, scenes(8, 8), photographs=2)[0])
    selected, rejected = choice(here, scenes(8, 8) | {f"train/{first}": data}, photographs=10)
    assert len(selected) == 10
    assert first not in selected
    assert rejected[f"train/{first}"].startswith(reason)
    assert len(rejected) == 1
    assert json.loads((output(here) / "metrics.json").read_text())["rejected"]["unreadable"] == 1
    assert json.loads((output(here) / "metrics.json").read_text())["examined"] == 11


@pytest.mark.reliability(
    "photographs",
    "the same photograph under two names",
    "the first by name is used, the other is rejected as `same_bytes`",
)
def test_of_copies_in_one_class_the_first_by_name_is_kept(here: Path) -> None:
    """The same bytes under several names are used once, however many photographs are asked for."""
    members = scenes(10, 10)
    members["train/cat.3.jpg"] = members["train/cat.5.jpg"] = members["train/cat.7.jpg"]
    selected, rejected = choice(here, members, photographs=16)
    assert "cat.3.jpg" in selected
    assert rejected == {f"train/cat.{n}.jpg": "same_bytes: those of train/cat.3.jpg" for n in (5, 7)}
    for photographs in range(2, 16):
        selected, _ = choice(here, members, photographs=photographs)
        assert not selected & {"cat.5.jpg", "cat.7.jpg"}


@pytest.mark.reliability(
    "photographs",
    "the same photograph under two classes",
    "both are rejected as `same_bytes_two_classes`, each with the other's name",
)
def test_copies_in_two_classes_are_all_rejected(here: Path) -> None:
    """The same photograph as a cat and as a dog is contradictory, so no copy is used."""
    members = scenes(10, 10)
    members["train/cat.3.jpg"] = members["train/cat.4.jpg"] = members["train/dog.5.jpg"]
    selected, rejected = choice(here, members, photographs=16)
    assert not selected & {"cat.3.jpg", "cat.4.jpg", "dog.5.jpg"}
    assert rejected == {
        "train/cat.3.jpg": "same_bytes_two_classes: those of train/dog.5.jpg, of class dog",
        "train/cat.4.jpg": "same_bytes_two_classes: those of train/dog.5.jpg, of class dog",
        "train/dog.5.jpg": "same_bytes_two_classes: those of train/cat.3.jpg, of class cat",
    }


def test_empty_files_are_unreadable_not_copies(here: Path) -> None:
    """Two empty files are rejected as unreadable, although they have the same bytes."""
    members = scenes(10, 10) | {"train/cat.3.jpg": b"", "train/dog.5.jpg": b""}
    _, rejected = choice(here, members, photographs=18)
    assert set(rejected.values()) == {"unreadable: empty file"}


@pytest.mark.reliability(
    "photographs",
    "one photograph saved twice, in another quality",
    "the second is rejected as `near_duplicate`, with the first's name",
)
def test_a_near_duplicate_is_rejected(here: Path) -> None:
    """Of one photograph in two qualities only one is selected; the reason has the name of the other."""
    again = {f"train/cat.9{number}.jpg": scene(number, quality=50) for number in range(8)}
    selected, rejected = choice(here, scenes(8, 8) | again, photographs=16)
    twins = {f"train/cat.{number}.jpg": f"train/cat.9{number}.jpg" for number in range(8)}
    twins |= {twin: name for name, twin in twins.items()}
    assert rejected
    for name, reason in rejected.items():
        assert Path(twins[name]).name in selected
        assert reason.startswith(f"near_duplicate: of {twins[name]}, ")
        assert reason.endswith(" of 256 bits differ")


def user_paths(workspace: Path, source: str, place: str) -> tuple[dict[str, str], set[str]]:
    """Run the stage; return the paths in rejected.csv, by name, and the sources of those selected."""
    prepare(
        workspace, {f"{name}/{n}.jpg": scene(n + 10 * (name == "cat")) for n in range(5) for name in ("cat", "dog")}
    )
    with zipfile.ZipFile(workspace / "artifacts/download/photos.zip", "a") as archive:
        archive.writestr("cat/broken.jpg", b"")
    (workspace / "artifacts/download/source.json").write_text(json.dumps({"source": source, "from": place}))
    subsample.main()
    listed = manifest.read_rejected(output(workspace) / "rejected.csv")
    with (output(workspace) / "rejected.csv").open(newline="") as file:
        assert [row.get("path") or "" for row in csv.DictReader(file)] == [row.path for row in listed]
    selected = manifest.read(output(workspace) / "manifest.csv")
    return {row.name: row.path for row in listed}, {entry.source for entry in selected}


def test_photographs_are_listed_with_the_users_path(here: Path) -> None:
    """Both lists have the path in the inbox beside that of the copy, and no such path for downloaded archives."""
    for place in ("inbox", "inbox/pets.zip"):
        rejected, selected = user_paths(here, "inbox", place)
        assert rejected == {"cat/broken.jpg": f"{place}/cat/broken.jpg"}
        assert selected <= {f"{place}/{name}/{n}.jpg" for name in ("cat", "dog") for n in range(5)}
        assert len(selected) > 1
    assert user_paths(here, "kaggle", "https://example.org") == ({"cat/broken.jpg": ""}, {""})


def test_the_limit_for_near_duplicates_is_a_parameter(here: Path) -> None:
    """0 rejects only equal hashes; null compares no hashes at all."""
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


def test_invalid_file_names_are_replaced(here: Path) -> None:
    """Files are written under names that are valid on any file system; rejected.csv has the names of the archive."""
    members = {"cat/what?*.jpg": scene(0), "cat/A.JPG": scene(1), "cat/a.jpg": scene(2), "cat/b.jpg": b""}
    selected, rejected = choice(here, members | {f"dog/{n}.jpg": scene(10 + n) for n in range(3)}, photographs=6)
    assert len({name.casefold() for name in selected}) == 6
    assert {Path(name).suffix for name in selected} == {".jpg", ".JPG"}
    assert "cat.what__.jpg" in selected
    assert set(rejected) <= {"cat/b.jpg"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"photographs": 1}, "`subsample.photographs` must be greater than or equal to 2. Received: 1"),
        ({"photographs": 10.0}, "`subsample.photographs` must be a valid integer. Received: 10.0"),
        ({"seed": -1}, "`subsample.seed` must be greater than or equal to 0. Received: -1"),
        ({"near_duplicates": 65}, "`subsample.near_duplicates` must be less than or equal to 64. Received: 65"),
        ({"near_duplicates": -1}, "`subsample.near_duplicates` must be greater than or equal to 0. Received: -1"),
        ({"photos": 5}, "`subsample.photos` is not a parameter; `subsample` has `photographs`, `balance`,"),
    ],
)
def test_wrong_parameters_are_reported_first(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    """Exit code 78 and the parameter's name, even if the archive is missing."""
    prepare(tmp_path, {}, **params)
    (tmp_path / "artifacts" / "download" / "photos.zip").unlink()
    process = run(tmp_path)
    assert process.returncode == 78
    assert process.stderr.startswith(message)


def test_asking_for_more_photographs_than_there_are_is_a_wrong_parameter(tmp_path: Path) -> None:
    """Exit code 78 with the allowed and the received number, before decoding: these files are not photographs."""
    prepare(tmp_path, {f"train/{name}.{n}.jpg": b"x%d" % n for name in ("cat", "dog") for n in range(4)}, photographs=9)
    process = run(tmp_path)
    assert process.returncode == 78
    assert process.stderr == (
        "`subsample.photographs` must be from 2 to 8: every class gives the same number and there are 4 `cat`, "
        "4 `dog`. Received: 9\n"
    )


def test_asking_for_fewer_photographs_than_classes_is_a_wrong_parameter(here: Path) -> None:
    """Every class needs at least one photograph."""
    prepare(here, {f"{name}/1.jpg": scene(n) for n, name in enumerate(("bird", "cat", "dog"))}, photographs=2)
    with pytest.raises(ParamsError, match=r"`subsample\.photographs` must be from 3 to 3: .* Received: 2$"):
        subsample.main()


def test_following_the_messages_ends_with_a_number_that_works(here: Path) -> None:
    """If too many photographs are rejected, the messages lead to the largest number that works.

    Unreadable photographs are known only after decoding, hence the second message.
    """
    members = scenes(8, 6) | {"train/dog.2.jpg": b"", "train/dog.4.jpg": scene(9), "train/cat.7.jpg": scene(0)}
    for photographs, possible, reason in (
        (13, 11, r"2 same_bytes \(train/cat\.7\.jpg: those of train/cat\.0\.jpg\)"),
        (11, 9, r"1 unreadable \(train/dog\.2\.jpg: empty file\)"),
    ):
        prepare(here, members, photographs=photographs)
        with pytest.raises(ParamsError, match=rf"from 2 to {possible}: .*{reason}.* Received: {photographs}$"):
            subsample.main()
    selected, _ = choice(here, members, photographs=9)
    assert len(selected) == 9


@pytest.mark.reliability(
    "photographs",
    "more than half of them rejected",
    "65 with the reasons, the most frequent first, each with an example",
)
def test_too_many_rejected_photographs_end_the_stage(tmp_path: Path) -> None:
    """Exit code 65 if more than half are rejected; the message lists the reasons, each with an example."""
    unreadable = {f"train/cat.{n}.jpg": b"x%d" % n for n in range(20, 40)} | {
        "train/dog.20.jpg": b"",
        "train/dog.21.jpg": b"",
    }
    prepare(tmp_path, scenes(8, 8) | unreadable, photographs=16)
    process = run(tmp_path)
    assert process.returncode == 65
    last = process.stderr.splitlines()[-1]
    assert last.startswith("At least half of the photographs must be usable. Received: ")
    assert "unreadable (train/" in last
    assert "Repair the photographs or choose another `download.source`." in last
    assert not output(tmp_path).exists()


def test_too_many_near_duplicates_end_the_stage_unless_allowed(here: Path) -> None:
    """The message for frames of a film names the parameter `near_duplicates`; with null they are selected."""
    film = {f"{name}/{n}.jpg": scene(c, quality=50 + n) for c, name in enumerate(("cat", "dog")) for n in range(10)}
    prepare(here, film, photographs=20)
    with pytest.raises(DataError, match=r"9 near_duplicate .*, or lower `subsample\.near_duplicates`\.$"):
        subsample.main()
    assert len(choice(here, film, photographs=20, near_duplicates=None)[0]) == 20


@pytest.mark.reliability(
    "training", "pictures of a single colour", "65 for near duplicates, unless `near_duplicates` is null"
)
def test_pictures_of_a_single_colour_are_near_duplicates(here: Path) -> None:
    """Pictures without any structure have equal hashes, whatever their colours; with null they are selected."""
    flat: dict[str, bytes] = {}
    for number in range(20):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (12 * number, 250 - 12 * number, 90)).save(file, "PNG")
        flat[f"{('cat', 'dog')[number % 2]}/{number}.png"] = file.getvalue()
    prepare(here, flat, photographs=20)
    with pytest.raises(DataError, match=r"near_duplicate .*, or lower `subsample\.near_duplicates`\.$"):
        subsample.main()
    assert len(choice(here, flat, photographs=20, near_duplicates=None)[0]) == 20


def test_a_class_without_usable_photographs_ends_the_stage(here: Path) -> None:
    """No value of `photographs` would work, so it is an error of the data, not of the parameters."""
    prepare(here, scenes(8, 0) | {"train/dog.1.jpg": b"x"}, photographs=2)
    with pytest.raises(DataError, match=r"none of `dog` without those rejected: 1 unreadable \(train/dog\.1\.jpg: not"):
        subsample.main()


@pytest.mark.parametrize("content", [b"", b"no archive", scene(0)])
def test_an_invalid_archive_ends_the_stage(tmp_path: Path, content: bytes) -> None:
    """Exit code 65 with the command to run."""
    prepare(tmp_path, {})
    (tmp_path / "artifacts" / "download" / "photos.zip").write_bytes(content)
    process = run(tmp_path)
    assert process.returncode == 65
    assert "photos.zip must be a complete zip archive" in process.stderr.splitlines()[-1]
    assert process.stderr.rstrip().endswith("dvc repro --single-item --force download`.")


def test_without_an_archive_the_stage_names_the_command_that_makes_it(tmp_path: Path) -> None:
    """Exit code 65, without a traceback."""
    prepare(tmp_path, {})
    (tmp_path / "artifacts" / "download" / "photos.zip").unlink()
    process = run(tmp_path)
    assert process.returncode == 65
    assert process.stderr.startswith("artifacts/download/photos.zip is missing. Run `dvc repro`")


def test_a_failed_run_keeps_the_previous_outputs(tmp_path: Path) -> None:
    """The files of the previous run are unchanged."""
    prepare(tmp_path, scenes(4, 4), photographs=6)
    assert run(tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in output(tmp_path).rglob("*") if path.is_file()}
    prepare(tmp_path, scenes(4, 4), photographs=60)
    assert run(tmp_path).returncode == 78
    assert {path: path.read_bytes() for path in output(tmp_path).rglob("*") if path.is_file()} == before


@pytest.mark.reliability("disk", "no space for the photographs", "exit 74 before any is decoded, with the space needed")
def test_photographs_for_which_the_disk_has_no_space_are_not_decoded(tmp_path: Path) -> None:
    """The message has the folder and the space needed, nothing is written, and a run with more space succeeds."""
    with disks.small(tmp_path / "disk", "size=200k") as disk:
        prepare(disk.path, scenes(9, 9), photographs=16)
        needed = 16 * 4096  # each takes one block
        (disk.path / "other").write_bytes(bytes(disks.free(disk) - needed + 8192))
        process = run(tmp_path, *disk.entering)
        assert process.returncode == 74, process.stderr
        assert process.stderr.startswith("The disk of `artifacts/subsample` must have 65.5 kB free. Received: 57.3 kB")
        assert process.stderr.count("\n") == 1
        assert list(disk.path.glob("artifacts/subsample")) == []
        (disk.path / "other").unlink()
        assert run(tmp_path, *disk.entering).returncode == 0
        assert len(list(disk.path.glob("artifacts/subsample/photos/*/*.jpg"))) == 16


def test_the_first_choice_is_taken_if_nothing_is_rejected(here: Path) -> None:
    """The space required before decoding is that of the photographs selected, if no candidate is rejected."""
    prepare(here, scenes(12, 9), photographs=7)
    subsample.main()
    with zipfile.ZipFile(here / "artifacts/download/photos.zip") as archive:
        queues = subsample.queue_candidates(layouts.candidates(archive), seed=0)
    selected = {Path(entry.path).name for entry in manifest.read(output(here) / "manifest.csv")}
    assert {Path(member).name for member in selection.first_choice(queues, 7)} == selected


def corrected(workspace: Path, members: Mapping[str, bytes], decisions: Mapping[str, str], **params: Any) -> set[str]:
    """Run the stage with corrections of members; return the names selected, and check that they are sorted by class."""
    rows = [Correction(hashlib.sha256(members[name]).hexdigest(), decision) for name, decision in decisions.items()]
    corrections.write(workspace / "corrections.csv", rows)
    return choice(workspace, members, **params)[0]


def class_of(workspace: Path, name: str) -> str:
    """Return the class of a photograph in the manifest."""
    entries = manifest.read(output(workspace) / "manifest.csv")
    return next(entry.class_name for entry in entries if entry.path.endswith(f"/{name}"))


def test_a_corrected_class_changes_no_other_photograph(here: Path) -> None:
    """The manifest differs in the corrected photographs' classes and folders alone, though all photographs are used."""
    members = scenes(8, 8)
    before, _ = choice(here, members, photographs=16)
    entries = {entry.sha256: entry for entry in manifest.read(output(here) / "manifest.csv")}
    decisions = {"train/cat.3.jpg": "dog", "train/cat.5.jpg": "dog", "train/dog.2.jpg": "cat", "train/dog.1.jpg": "dog"}
    assert corrected(here, members, decisions, photographs=16) == before
    after = {entry.sha256: entry for entry in manifest.read(output(here) / "manifest.csv")}
    changed = {Path(entries[sha256].path).name for sha256 in entries if after[sha256] != entries[sha256]}
    assert changed == {"cat.3.jpg", "cat.5.jpg", "dog.2.jpg"}
    assert (class_of(here, "cat.3.jpg"), class_of(here, "dog.2.jpg")) == ("dog", "cat")
    assert all(Path(entry.path).parts[1] == entry.class_name for entry in after.values())
    corrected(here, members, {}, photographs=16)
    assert {entry.sha256: entry for entry in manifest.read(output(here) / "manifest.csv")} == entries


def test_an_excluded_photograph_is_replaced(here: Path) -> None:
    """It is in rejected.csv with its reason, the next of its class is selected, and the others stay."""
    members = scenes(8, 8)
    before, _ = choice(here, members, photographs=8)
    left_out = min(before)
    selected = corrected(here, members, {f"train/{left_out}": corrections.EXCLUDE}, photographs=8)
    assert len(before - selected) == len(selected - before) == 1
    assert left_out not in selected
    assert f"train/{left_out},excluded: by corrections.csv" in (output(here) / "rejected.csv").read_text()
    assert json.loads((output(here) / "metrics.json").read_text())["rejected"]["excluded"] == 1


def test_exclusions_may_leave_too_few(here: Path) -> None:
    """With too few photographs left, the message has the number that works and the excluded ones."""
    members = scenes(4, 4)
    with pytest.raises(ParamsError, match=r"must be from 2 to 7: .* without those rejected: 1 excluded"):
        corrected(here, members, {"train/dog.1.jpg": corrections.EXCLUDE}, photographs=8)
    most = {name: corrections.EXCLUDE for name in members if name[-5] != "0"}
    assert corrected(here, members, most, photographs=2) == {"cat.0.jpg", "dog.0.jpg"}


def test_a_correction_settles_copies_in_two_classes(here: Path) -> None:
    """Of a file in two classes one is kept, in the class that its correction says."""
    members = scenes(4, 4)
    members["train/dog.1.jpg"] = members["train/cat.1.jpg"]
    selected = corrected(here, members, {"train/cat.1.jpg": "dog"}, photographs=6)
    assert "dog.1.jpg" not in selected
    assert class_of(here, "cat.1.jpg") == "dog"


@pytest.mark.reliability(
    "photographs",
    "corrections.csv names photographs or classes that do not exist",
    "65, and the message has all of them",
)
def test_unknown_photographs_and_classes_are_refused_by_name(here: Path) -> None:
    """A correction of a photograph or to a class that the source does not have ends the stage before any is decoded."""
    prepare(here, scenes(4, 4))
    unknown = ["ab" * 32, "cd" * 32]
    known = hashlib.sha256(scenes(4, 4)["train/cat.1.jpg"]).hexdigest()
    rows = [*(Correction(sha256, "dog") for sha256 in unknown), Correction(known, "fox")]
    corrections.write(here / "corrections.csv", rows)
    with pytest.raises(DataError) as refusal:
        subsample.main()
    received = ", ".join([*(f"no photograph with the sha256 {sha256}" for sha256 in unknown), "no class `fox`"])
    assert f"their classes cat, dog or `exclude`. Received: {received}." in str(refusal.value)


def test_classes_keep_their_proportions(here: Path) -> None:
    """With `as_they_are` a choice has the classes' proportions, and three of a rare one; a smaller is part of it."""
    members = scenes(60, 4)
    selected, _ = choice(here, members, photographs=32, balance="as_they_are")
    counts = Counter(name.split(".")[0] for name in selected)
    assert counts["cat"] + counts["dog"] == 32
    assert 3 <= counts["dog"] <= 4
    smaller, _ = choice(here, members, photographs=16, balance="as_they_are")
    assert smaller < selected
    everything, _ = choice(here, members, photographs=64, balance="as_they_are")
    assert len(everything) == 64


def test_more_photographs_than_all_classes_have_are_refused(here: Path) -> None:
    """With `as_they_are` the classes need not have the same number."""
    prepare(here, scenes(6, 4), photographs=11, balance="as_they_are")
    with pytest.raises(ParamsError, match=r"must be from 2 to 10: there are 6 `cat`, 4 `dog`\. Received: 11"):
        subsample.main()
