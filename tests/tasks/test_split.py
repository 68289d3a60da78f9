import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tasks import split
from transfer.images import manifest
from transfer.images.manifest import Entry
from transfer.runtime import params
from transfer.runtime.errors import DataError, ParamsError

REPOSITORY = Path(split.__file__).parents[1]
GOOD = {"validation": 0.2, "test": 0.2, "training_photographs": None, "seed": 0}


def photographs(count: int) -> list[Entry]:
    """Return entries of a manifest, of two classes in turn."""
    return [
        Entry(f"photos/{name}/{n:04}.jpg", name, sha256(b"%d" % n).hexdigest(), 320, 240)
        for n in range(count)
        for name in [("cat", "dog")[n % 2]]
    ]


def settings(**changes: Any) -> split.Params:
    """Return checked parameters with these changes."""
    return params.parse("split", GOOD | changes, split.Params)


def run(workspace: Path, entries: list[Entry], **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run the stage as a process on these photographs."""
    (workspace / "params.yaml").write_text(f"split: {json.dumps(GOOD | changes)}\n")
    manifest.write(workspace / "artifacts" / "subsample" / "manifest.csv", entries)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tasks", "split"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)


def test_each_photograph_is_assigned_a_split(tmp_path: Path) -> None:
    """Exit code 0; the manifest has one more column, and metrics.json the counts by split and class."""
    entries = photographs(300)
    process = run(tmp_path, entries)
    assert process.returncode == 0, process.stderr
    assigned = manifest.read(tmp_path / "artifacts" / "split" / "manifest.csv")
    assert [entry._replace(split="") for entry in assigned] == entries
    counts = json.loads((tmp_path / "artifacts" / "split" / "metrics.json").read_text())
    assert list(counts) == ["train", "validation", "test"]
    for name, classes in counts.items():
        assert classes == {
            label: sum(entry.split == name and entry.class_name == label for entry in assigned)
            for label in ("cat", "dog")
        }
    assert sum(sum(classes.values()) for classes in counts.values()) == 300
    assert process.stderr.splitlines()[-1].startswith(f"train: {counts['train']['cat']} cat, ")


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """The outputs follow from the photographs and the parameters alone."""
    contents = []
    for _ in range(2):
        assert run(tmp_path, photographs(100)).returncode == 0
        contents.append([path.read_bytes() for path in sorted((tmp_path / "artifacts" / "split").iterdir())])
    assert contents[0] == contents[1]


def test_added_photographs_do_not_change_the_splits_of_others() -> None:
    """Every photograph keeps its split when their number doubles and their order changes."""
    few = split.assign(photographs(200), settings())
    many = split.assign(reversed(photographs(400)), settings())
    assert set(few) <= set(many)


def test_a_split_follows_from_the_content_not_from_the_name() -> None:
    """A photograph that is renamed, or moved to another class, keeps its split."""
    entries = photographs(50)
    renamed = [entry._replace(path=f"photos/x/{number}.png", class_name="x") for number, entry in enumerate(entries)]
    splits = [[entry.split for entry in split.assign(version, settings())] for version in (entries, renamed)]
    assert splits[0] == splits[1]


def test_splits_have_the_fractions_asked_for() -> None:
    """Of 20,000 photographs each split has its fraction within 1.5 percentage points, in both classes."""
    counts = split.count(split.assign(photographs(20_000), settings(validation=0.1, test=0.25)))
    for name, fraction in (("train", 0.65), ("validation", 0.1), ("test", 0.25)):
        assert [count / 10_000 for count in counts[name].values()] == pytest.approx([fraction] * 2, abs=0.015)


def test_another_seed_gives_other_splits() -> None:
    """The splits depend on the seed."""
    splits = [[entry.split for entry in split.assign(photographs(100), settings(seed=seed))] for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_another_validation_fraction_does_not_change_the_test_split() -> None:
    """The photographs for the final scores do not depend on the size of the validation split."""
    test_splits = [
        {entry for entry in split.assign(photographs(500), settings(validation=validation)) if entry.split == "test"}
        for validation in (0.1, 0.5)
    ]
    assert test_splits[0] == test_splits[1]


def test_a_smaller_training_split_is_part_of_a_larger_one() -> None:
    """The limit is balanced over the classes, changes no other split, and has no effect above the number available."""
    everything = split.assign(photographs(400), settings())
    held_back = [entry for entry in everything if entry.split != "train"]
    limited = {count: split.assign(photographs(400), settings(training_photographs=count)) for count in (31, 60, 9999)}
    assert [entry for entry in limited[31] if entry.split != "train"] == held_back
    assert split.count(limited[31])["train"] == {"cat": 16, "dog": 15}
    assert set(limited[31]) < set(limited[60]) < set(limited[9999])
    assert limited[9999] == everything


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0.6, "test": 0.5}, "Received: validation=0.6, test=0.5"),
        ({"validation": 0.5, "test": 0.5}, "Received: validation=0.5, test=0.5"),
    ],
)
def test_fractions_that_leave_nothing_to_train_on_are_rejected(changes: dict[str, float], message: str) -> None:
    """The message has both fractions, what is allowed and what was received."""
    with pytest.raises(ParamsError, match=r"^`split`: `validation` \+ `test` must be less than 1, to leave") as caught:
        settings(**changes)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0}, "`split.validation` must be greater than 0. Received: 0"),
        ({"test": 1}, "`split.test` must be less than 1. Received: 1"),
        ({"test": "0.2"}, "`split.test` must be a valid number. Received: '0.2'"),
        ({"seed": 0.5}, "`split.seed` must be a valid integer"),
        (
            {"train": 0.6},
            "`split.train` is not a parameter; `split` has `validation`, `test`, `training_photographs`, `seed`.",
        ),
    ],
)
def test_wrong_parameters_are_reported_by_name(changes: dict[str, Any], message: str) -> None:
    """Each fraction must be a number between 0 and 1, and unknown parameters are rejected."""
    with pytest.raises(ParamsError) as caught:
        settings(**changes)
    assert str(caught.value).startswith(message)


def test_wrong_parameters_end_the_stage_with_exit_code_78(tmp_path: Path) -> None:
    """The message is the last line on stderr, and nothing is written."""
    process = run(tmp_path, photographs(10), validation=0.6, test=0.5)
    assert process.returncode == 78
    assert process.stderr.endswith("Received: validation=0.6, test=0.5\n")
    assert not (tmp_path / "artifacts" / "split").exists()


@pytest.mark.reliability(
    "training", "a split so small that a class is missing", "65 with the class, the split and the parameters to raise"
)
def test_a_class_missing_from_a_split_ends_the_stage(tmp_path: Path) -> None:
    """Exit code 65 with the class, the split and the parameters to change; nothing is written."""
    process = run(
        tmp_path, photographs(300)[:3] + [entry for entry in photographs(300) if entry.class_name == "cat"][3:]
    )
    assert process.returncode == 65
    assert process.stderr.startswith("Every class must be in every split. Received: no `dog` in ")
    assert process.stderr.endswith(
        "Each class needs three photographs or more: raise `subsample.photographs`, or add photographs.\n"
    )
    assert not (tmp_path / "artifacts" / "split").exists()


@pytest.mark.reliability(
    "training", "a validation split of one class", "65 with the class, the split and the parameters to raise"
)
@pytest.mark.parametrize("lacking", ["train", "validation", "test"])
def test_every_split_must_have_every_class(lacking: str) -> None:
    """The message has the class and the split, for each of the three splits."""
    entries = [
        entry
        for entry in split.assign(photographs(200), settings())
        if (entry.split, entry.class_name) != (lacking, "dog")
    ]
    with pytest.raises(DataError, match=rf"Received: no `dog` in {lacking}\. Each class needs three"):
        split.check_classes(split.count(entries))


@pytest.mark.reliability(
    "training", "a single photograph per class", "65 with the class, the split and the parameters to raise"
)
def test_a_single_photograph_per_class_cannot_be_split() -> None:
    """A photograph is in one split, so the other splits lack its class."""
    with pytest.raises(DataError, match=r"Received: no `(cat|dog)` in .*, no `(cat|dog)` in .*\. Each class needs"):
        split.check_classes(split.count(split.assign(photographs(2), settings())))


@pytest.mark.reliability("training", "photographs of one class only", "65: there must be two classes or more")
@pytest.mark.parametrize("entries", [[], [entry for entry in photographs(200) if entry.class_name == "dog"]])
def test_fewer_than_two_classes_are_rejected(entries: list[Entry]) -> None:
    """A classifier needs two classes; the message has those received."""
    with pytest.raises(DataError, match=r"There must be two classes or more\. Received: (dog|no photographs)\."):
        split.check_classes(split.count(split.assign(entries, settings())))


def test_without_a_manifest_the_stage_names_the_command_that_makes_it(tmp_path: Path) -> None:
    """Exit code 65, without a traceback."""
    run(tmp_path, photographs(10))
    (tmp_path / "artifacts" / "subsample" / "manifest.csv").unlink()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, "-m", "tasks", "split"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 65
    assert process.stderr.startswith("artifacts/subsample/manifest.csv is missing. Run `dvc repro`")


def test_a_corrected_class_changes_no_split() -> None:
    """A photograph keeps its split in another class, and so do the others; a limit moves one of each class at most."""
    entries = photographs(200)
    corrected = [entries[0]._replace(class_name="dog"), *entries[1:]]
    splits = [[entry.split for entry in split.assign(each, settings())] for each in (entries, corrected)]
    assert splits[0] == splits[1]
    limited = [
        {entry.sha256 for entry in split.assign(each, settings(training_photographs=60))}
        for each in (entries, corrected)
    ]
    assert len(limited[0] ^ limited[1]) <= 2


def test_a_class_of_three_photographs_is_in_every_split() -> None:
    """A split that would miss the class gets the photograph whose hash is nearest, whatever the seed is."""
    entries = [entry for entry in photographs(300) if entry.class_name == "cat"] + photographs(300)[1:7:2]
    for seed in range(30):
        counts = split.count(split.assign(entries, settings(seed=seed)))
        assert {name: of_split["dog"] for name, of_split in counts.items()} == {"train": 1, "validation": 1, "test": 1}


def test_added_photographs_move_only_those_that_filled_a_gap() -> None:
    """Once a class has a photograph that belongs to a split, the one that filled the gap is where it belongs."""
    filled = 0
    for seed in range(30):
        few, more = (
            {entry.sha256: entry.split for entry in split.assign(photographs(count), settings(seed=seed))}
            for count in (16, 400)
        )
        belongs = {sha256: split.split_of(sha256, settings(seed=seed)) for sha256 in more}
        assert more == belongs
        moved = [sha256 for sha256 in few if few[sha256] != belongs[sha256]]
        assert len(moved) <= 4
        filled += len(moved)
    assert filled
