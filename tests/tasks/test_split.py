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
    """A manifest's entries, two classes in turn."""
    return [
        Entry(f"photos/{name}/{n:04}.jpg", name, sha256(b"%d" % n).hexdigest(), 320, 240)
        for n in range(count)
        for name in [("cat", "dog")[n % 2]]
    ]


def settings(**changes: Any) -> split.Params:
    """Params with these changes, checked."""
    return params.parse("split", GOOD | changes, split.Params)


def run(workspace: Path, entries: list[Entry], **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run the stage as a process on these photographs."""
    (workspace / "params.yaml").write_text(f"split: {json.dumps(GOOD | changes)}\n")
    manifest.write(workspace / "artifacts" / "subsample" / "manifest.csv", entries)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tasks", "split"]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)


def test_each_photograph_gets_a_split_and_keeps_the_rest(tmp_path: Path) -> None:
    """Exit code 0; the manifest with one more column, and counts by split and class that agree with it."""
    entries = photographs(300)
    done = run(tmp_path, entries)
    assert done.returncode == 0, done.stderr
    made = manifest.read(tmp_path / "artifacts" / "split" / "manifest.csv")
    assert [entry._replace(split="") for entry in made] == entries
    counts = json.loads((tmp_path / "artifacts" / "split" / "metrics.json").read_text())
    assert list(counts) == ["train", "validation", "test"]
    for name, classes in counts.items():
        assert classes == {
            label: sum(entry.split == name and entry.class_name == label for entry in made) for label in ("cat", "dog")
        }
    assert sum(sum(classes.values()) for classes in counts.values()) == 300
    assert done.stderr.splitlines()[-1].startswith(f"train: {counts['train']['cat']} cat, ")


def test_splitting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing depends on time or chance beyond the seed."""
    contents = []
    for _ in range(2):
        assert run(tmp_path, photographs(100)).returncode == 0
        contents.append([path.read_bytes() for path in sorted((tmp_path / "artifacts" / "split").iterdir())])
    assert contents[0] == contents[1]


def test_adding_photographs_moves_none() -> None:
    """A test photograph stays one when the collection doubles, whatever the order."""
    few = split.assigned(photographs(200), settings())
    many = split.assigned(reversed(photographs(400)), settings())
    assert set(few) <= set(many)


def test_a_split_follows_from_the_content_and_not_from_the_name() -> None:
    """A photograph that is renamed, or filed under another class, keeps its split."""
    entries = photographs(50)
    renamed = [entry._replace(path=f"photos/x/{number}.png", class_name="x") for number, entry in enumerate(entries)]
    splits = [[one.split for one in split.assigned(each, settings())] for each in (entries, renamed)]
    assert splits[0] == splits[1]


def test_splits_come_near_the_fractions_asked_for() -> None:
    """Of 20,000 photographs each split has its part within a point, in both classes."""
    counts = split.counts(split.assigned(photographs(20_000), settings(validation=0.1, test=0.25)))
    for name, fraction in (("train", 0.65), ("validation", 0.1), ("test", 0.25)):
        assert [count / 10_000 for count in counts[name].values()] == pytest.approx([fraction] * 2, abs=0.015)


def test_another_seed_is_another_split() -> None:
    """Scores over several seeds are scores over several splits."""
    splits = [[one.split for one in split.assigned(photographs(100), settings(seed=seed))] for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_another_validation_fraction_leaves_the_test_photographs_alone() -> None:
    """What the final scores are measured on does not change with how much is held back for decisions."""
    tested = [
        {entry for entry in split.assigned(photographs(500), settings(validation=validation)) if entry.split == "test"}
        for validation in (0.1, 0.5)
    ]
    assert tested[0] == tested[1]


def test_fewer_training_photographs_are_among_more() -> None:
    """A limit takes as many of each class, moves no photograph of another split, and is no limit where it is large."""
    everything = split.assigned(photographs(400), settings())
    held_back = [entry for entry in everything if entry.split != "train"]
    kept = {count: split.assigned(photographs(400), settings(training_photographs=count)) for count in (31, 60, 9999)}
    assert [entry for entry in kept[31] if entry.split != "train"] == held_back
    assert split.counts(kept[31])["train"] == {"cat": 16, "dog": 15}
    assert set(kept[31]) < set(kept[60]) < set(kept[9999])
    assert kept[9999] == everything


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0.6, "test": 0.5}, "Received: validation=0.6, test=0.5"),
        ({"validation": 0.5, "test": 0.5}, "Received: validation=0.5, test=0.5"),
    ],
)
def test_nothing_left_to_train_on_is_refused(changes: dict[str, float], message: str) -> None:
    """The message names both fractions, what is allowed and what came."""
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
def test_wrong_params_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """Each fraction lies between 0 and 1 and none is left out."""
    with pytest.raises(ParamsError) as caught:
        settings(**changes)
    assert str(caught.value).startswith(message)


def test_wrong_params_end_the_stage_with_their_exit_code(tmp_path: Path) -> None:
    """Exit code 78, and nothing is written."""
    ended = run(tmp_path, photographs(10), validation=0.6, test=0.5)
    assert ended.returncode == 78
    assert ended.stderr.endswith("Received: validation=0.6, test=0.5\n")
    assert not (tmp_path / "artifacts" / "split").exists()


@pytest.mark.reliability(
    "training", "a split so small that a class is missing", "65 with the class, the split and what to raise"
)
def test_a_class_missing_from_a_split_ends_the_stage(tmp_path: Path) -> None:
    """Exit code 65, naming class and split and what to change; nothing is written."""
    ended = run(tmp_path, photographs(300)[:3] + [one for one in photographs(300) if one.class_name == "cat"][3:])
    assert ended.returncode == 65
    assert ended.stderr.startswith("Every class must be in every split. Received: no `dog` in ")
    assert ended.stderr.endswith(
        "Raise `subsample.photographs` or the split's fraction, or choose another `split.seed`.\n"
    )
    assert not (tmp_path / "artifacts" / "split").exists()


@pytest.mark.reliability(
    "training", "a validation split of one class", "65 with the class, the split and what to raise"
)
@pytest.mark.parametrize("lacking", ["train", "validation", "test"])
def test_no_split_may_lack_a_class(lacking: str) -> None:
    """The class and the split are named, whichever split it is."""
    entries = [
        one for one in split.assigned(photographs(200), settings()) if (one.split, one.class_name) != (lacking, "dog")
    ]
    with pytest.raises(DataError, match=rf"Received: no `dog` in {lacking}\. Raise"):
        split.refuse_empty(split.counts(entries))


@pytest.mark.reliability("training", "a single photograph a class", "65 with the class, the split and what to raise")
def test_a_single_photograph_a_class_cannot_be_split() -> None:
    """One photograph is in one split; the others lack its class."""
    with pytest.raises(DataError, match=r"Received: no `(cat|dog)` in .*, no `(cat|dog)` in .*\. Raise"):
        split.refuse_empty(split.counts(split.assigned(photographs(2), settings())))


@pytest.mark.reliability("training", "photographs of one class alone", "65: there must be two classes or more")
@pytest.mark.parametrize("entries", [[], [one for one in photographs(200) if one.class_name == "dog"]])
def test_fewer_than_two_classes_are_refused(entries: list[Entry]) -> None:
    """There is nothing to tell apart."""
    with pytest.raises(DataError, match=r"There must be two classes or more\. Received: (dog|no photographs)\."):
        split.refuse_empty(split.counts(split.assigned(entries, settings())))


def test_without_a_manifest_the_stage_says_what_makes_it(tmp_path: Path) -> None:
    """Exit code 65, no traceback."""
    run(tmp_path, photographs(10))
    (tmp_path / "artifacts" / "subsample" / "manifest.csv").unlink()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-m", "tasks", "split"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 65
    assert ended.stderr.startswith("artifacts/subsample/manifest.csv is missing. `dvc repro`")
