import json
import logging
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks import extract_features
from tests import disks
from tests.tasks.conftest import (
    EDGE,
    PARAMS,
    Chain,
    file_contents,
    hanging,
    kill_once,
    run,
    start,
    write_params,
    write_photographs,
)
from transfer.features import extraction, store
from transfer.images import decoding, manifest
from transfer.runtime import params, stage
from transfer.runtime.errors import DataError, DiskError, ParamsError
from transfer.sources import synthetic

OUTPUT = Path("artifacts/extract_features")
SHEET = "augmentation.jpg"
SETTINGS: dict[str, Any] = PARAMS["extract_features"]


def without_sheet(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files without the contact sheet, which may show added photographs."""
    return {name: content for name, content in files.items() if name != SHEET}


def rows(folder: Path) -> dict[str, int]:
    """Return the modification time of each row in a folder of the feature cache or of the artifacts."""
    return {f"{path.parent.name}/{path.stem}": path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}


def summary(caplog: pytest.LogCaptureFixture) -> str:
    """Return the stage's log line with the number of rows."""
    return next(line for line in caplog.messages if line.startswith("extract_features:"))


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def _computing_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not set TensorFlow's threads: that is possible only before the first operation of the tests' process."""
    monkeypatch.setattr(extraction, "use_one_thread_per_replica", lambda: None)


def test_every_photograph_has_a_row_and_every_training_photograph_its_views(chain: Chain) -> None:
    """There is a row for view 0 of every photograph and for views 1 to n of training photographs, and no other."""
    entries = manifest.read(chain.folder / "artifacts/split/manifest.csv")
    expected = {f"0/{entry.sha256}" for entry in entries} | {
        f"1/{entry.sha256}" for entry in entries if entry.split == "train"
    }
    assert set(file_contents(chain.folder / OUTPUT)) == {"0/recipe.json", "1/recipe.json", SHEET} | {
        f"{row}.npz" for row in expected
    }
    assert f"extract_features: {len(expected)} rows, 0 of them computed before." in chain.stderr["extract_features"]


def test_a_recipe_has_everything_that_a_view_follows_from(chain: Chain) -> None:
    """The recipe.json of a view has the weights, size and boundary; that of an augmented view, the augmentation."""
    original, augmented = store.read_recipes(chain.folder / OUTPUT)
    for recipe in (original, augmented):
        assert (recipe["image_size"], recipe["boundary"], recipe["resizing"]) == (32, "block4_pool", "crop")
        assert len(recipe["weights"]) == 64
    assert original["augmentation"] is None
    assert augmented["augmentation"] == {"view": 1, "seed": 0, **SETTINGS["augmentation"]}


def test_an_augmented_view_has_other_activations(chain: Chain) -> None:
    """The activations of view 1 differ from those of the photograph, and have the same shapes."""
    entry = manifest.read(chain.folder / "artifacts/split/manifest.csv")[0]
    recipes = [store.recipe_digest(recipe) for recipe in store.read_recipes(chain.folder / OUTPUT)]
    original, augmented = (
        store.read_row(chain.folder / OUTPUT / str(view) / f"{entry.sha256}.npz", recipe=recipe, photo=entry.sha256)
        for view, recipe in enumerate(recipes)
    )
    assert original.boundary.shape == augmented.boundary.shape == (2, 2, 512)
    assert original.pooled.shape == (1, 1, 512)
    assert not np.array_equal(original.boundary, augmented.boundary)


def test_the_contact_sheet_shows_photographs_and_views(chain: Chain) -> None:
    """A row of the sheet is one of six training photographs and its view, which looks different."""
    with Image.open(chain.folder / OUTPUT / "augmentation.jpg") as image:
        sheet = np.asarray(image.convert("RGB"), np.float64)
    height, width = sheet.shape[0] // 6, sheet.shape[1] // 2
    assert abs(sheet.shape[1] / 2 - (sheet.shape[0] - 30) / 6) < 8  # square cells, below the headings
    for row in range(6):
        original, view = (sheet[-(row + 1) * height :][:height, side * width :][:, :width] for side in (0, 1))
        assert original.std() > 10
        assert np.abs(original - view).mean() > 3


def test_views_without_augmentation_are_rejected() -> None:
    """With all of the augmentation off, views would be copies, so `views` must be 0."""
    off = {
        name: 1.0 if name in ("zoom", "stretch") else 0.0 for name in ("rotation", "shift", "zoom", "shear", "stretch")
    }
    changed = SETTINGS | {"augmentation": SETTINGS["augmentation"] | off | {"horizontal_flip": False}}
    with pytest.raises(ParamsError, match="views would be copies"):
        params.parse("extract_features", changed, extract_features.Params)
    params.parse("extract_features", changed | {"views": 0}, extract_features.Params)


def test_a_second_run_computes_nothing(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second run logs that every row was computed before, writes no row and leaves the same files."""
    cached, artifacts = rows(Path(".cache/features")), file_contents(OUTPUT)
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert rows(Path(".cache/features")) == cached
    assert file_contents(workspace / OUTPUT) == artifacts


@pytest.mark.usefixtures("workspace", "_computing_process")
def test_another_augmentation_does_not_recompute_view_0(caplog: pytest.LogCaptureFixture) -> None:
    """With another augmentation, view 0 keeps its recipe and rows; with the first one again, no row is computed."""
    cached, artifacts = rows(Path(".cache/features")), file_contents(OUTPUT)
    changed = {"augmentation": {**SETTINGS["augmentation"], "rotation": 5.0}}
    write_params(Path(), {"extract_features": changed})
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 40 of them computed before."
    after = file_contents(OUTPUT)
    unchanged = {name for name in artifacts if artifacts[name] == after[name]}
    assert unchanged == {name for name in artifacts if name.startswith("0/")}
    assert cached.items() <= rows(Path(".cache/features")).items()

    caplog.clear()
    write_params(Path(), {})
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert file_contents(OUTPUT) == artifacts


@pytest.mark.usefixtures("workspace", "_computing_process")
def test_mirror_images_have_rows_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """With `mirror`, only the mirror images of validation and test photographs are computed; without it, nothing."""
    artifacts, entries = file_contents(OUTPUT), manifest.read(Path("artifacts/split/manifest.csv"))
    write_params(Path(), {"extract_features": {**SETTINGS, "mirror": True}})
    extract_features.main()
    assert summary(caplog) == "extract_features: 80 rows, 64 of them computed before."
    assert "extract_features: 16 of the rows are of mirror images, as `mirror` is on." in caplog.messages
    assert json.loads(Path(".cache/extract_features/rows.json").read_text()) == {"rows": 80, "reused": 64}
    mirrored = {f"mirrored/{entry.sha256}.npz" for entry in entries if entry.split != "train"}
    added = file_contents(OUTPUT).keys() - artifacts.keys()
    assert added == {"mirrored/recipe.json", *mirrored}
    assert store.read_mirrored_recipe(OUTPUT) == store.read_recipes(OUTPUT)[0] | {"mirrored": True}
    assert artifacts.items() <= file_contents(OUTPUT).items()

    caplog.clear()
    write_params(Path(), {})
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert file_contents(OUTPUT) == artifacts
    assert store.read_mirrored_recipe(OUTPUT) is None


def test_mirror_images_larger_than_a_network_may_take_are_rejected() -> None:
    """With `mirror`, an `image_size` for which the network could not be loaded is refused before any work."""
    with pytest.raises(ParamsError, match=r"`mirror` must be false with an `image_size` above 768.* Received: 769"):
        params.parse("extract_features", SETTINGS | {"mirror": True, "image_size": 769}, extract_features.Params)
    params.parse("extract_features", SETTINGS | {"image_size": 769}, extract_features.Params)


@pytest.mark.usefixtures("workspace")
def test_no_row_of_a_corrected_photograph_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    """A photograph in another class, and so in another folder, keeps its rows: they belong to its content."""
    file, photographs = Path("artifacts/split/manifest.csv"), Path("artifacts/subsample")
    corrected, *others = manifest.read(file)
    moved = corrected._replace(path="photos/dog/moved.jpg", class_name="dog")
    assert corrected.class_name == "cat"
    (photographs / corrected.path).rename(photographs / moved.path)
    manifest.write(file, [*others, moved])
    before = without_sheet(file_contents(OUTPUT))
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert without_sheet(file_contents(OUTPUT)) == before


@pytest.mark.usefixtures("workspace", "_computing_process")
def test_only_rows_of_added_photographs_are_computed(caplog: pytest.LogCaptureFixture) -> None:
    """The rows of added photographs are computed; those of the others stay the same files."""
    cached, artifacts = rows(Path(".cache/features")), without_sheet(file_contents(OUTPUT))
    entries = write_photographs(Path(), numbers=range(25))
    added = {entry.sha256 for entry in entries[40:]}
    extract_features.main()
    assert summary(caplog) == "extract_features: 80 rows, 64 of them computed before."
    assert json.loads(Path(".cache/extract_features/rows.json").read_text()) == {"rows": 80, "reused": 64}
    assert artifacts.items() <= file_contents(OUTPUT).items()
    assert cached.items() <= rows(Path(".cache/features")).items()
    assert {row.split("/")[1] for row in rows(Path(".cache/features")).keys() - cached.keys()} == added


def test_a_row_does_not_depend_on_other_photographs(workspace: Path) -> None:
    """Computed anew, in another order and among more photographs, every row has the same bytes."""
    expected = without_sheet(file_contents(OUTPUT))
    shutil.rmtree(".cache")
    entries = write_photographs(workspace, numbers=range(23))
    manifest.write(Path("artifacts/split/manifest.csv"), entries[::-1])
    assert "76 rows, 0 of them computed before." in run("extract_features", workspace)
    assert expected.items() <= file_contents(OUTPUT).items()


@pytest.mark.reliability("killed", "extraction resumes after it was killed", "no complete row is computed again")
def test_a_killed_extraction_is_resumed(workspace: Path) -> None:
    """A killed stage leaves no artifacts; the next run computes only the missing rows, to the same bytes."""
    expected, folder = file_contents(OUTPUT), Path(".cache/features")
    shutil.rmtree(OUTPUT)
    shutil.rmtree(folder)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    before = {entry.sha256 for entry in photographs[:10]}  # they are in batches before that of the hanging photograph
    with hanging(Path("artifacts/subsample", photographs[20].path)):
        kill_once(
            start("extract_features", workspace),
            lambda: before <= {path.stem for path in folder.glob("*/*.npz")},
        )
    assert not OUTPUT.exists()
    complete = rows(folder)
    assert 10 <= len(complete) < 64
    assert f"64 rows, {len(complete)} of them computed before." in run("extract_features", workspace)
    assert complete.items() <= rows(folder).items()
    assert file_contents(OUTPUT) == expected


@pytest.mark.reliability(
    "photographs", "photographs of 80 megapixels", "extracted with less than 1 GB more memory on each core"
)
def test_one_photograph_of_a_batch_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each photograph is read once for its neighbouring shots, and freed before the next one is read."""
    entries = write_photographs(tmp_path, numbers=range(2))
    settings = extract_features.Params(**SETTINGS)
    read, alive = decoding.read_photo, []

    def read_alone(path: Path, *, sha256: str) -> Image.Image:
        assert all(image() is None for image in alive)
        photograph = read(path, sha256=sha256)
        alive.append(weakref.ref(photograph))
        return photograph

    monkeypatch.setattr(decoding, "read_photo", read_alone)
    shots = extract_features.shots(entries, views=1)
    pictures = extract_features.pixels(shots, settings=settings, folder=tmp_path / "artifacts/subsample")
    assert pictures.shape == (len(shots), 32, 32, 3)
    assert len(alive) == len(entries)


@pytest.mark.parametrize("content", [b"no photograph", synthetic.draw("bear", 0, size=EDGE, seed=0)])
@pytest.mark.usefixtures("_computing_process")
def test_a_changed_photograph_is_an_error(workspace: Path, content: bytes) -> None:
    """For a damaged or replaced photograph the message has its path; no row is computed, earlier artifacts stay."""
    expected = file_contents(OUTPUT)
    added = write_photographs(workspace, numbers=range(21))[-1]
    Path("artifacts/subsample", added.path).write_bytes(content)
    with pytest.raises(DataError, match=rf"{added.path} must be .*dvc repro --single-item --force subsample"):
        extract_features.main()
    assert file_contents(OUTPUT) == expected
    assert not any(row.endswith(added.sha256) for row in rows(Path(".cache/features")))


def test_workspaces_can_share_a_feature_cache(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With `DOGS_VS_CATS_CACHE` at another's cache, a new clone computes nothing and makes no cache of its own."""
    expected = file_contents(OUTPUT)
    shutil.move(".cache", tmp_path / "shared")
    shutil.rmtree(OUTPUT)
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "shared"))
    extract_features.main()
    assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert file_contents(OUTPUT) == expected
    assert not (workspace / ".cache/features").exists()


@pytest.fixture
def small(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[disks.Disk]:
    """Yield a disk with space for half of the rows, as the current folder, with the stage's inputs."""
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    with disks.small(tmp_path / "disk", "size=400k") as disk:
        (disk.path / "artifacts").mkdir()
        for name in ("artifacts/split", "artifacts/subsample", "artifacts/fetch_weights", "params.yaml"):
            (disk.path / name).symlink_to(chain.folder / name)
        monkeypatch.chdir(disk.path)
        yield disk
        monkeypatch.undo()


def disk_error() -> str:
    """Run the stage, which must raise DiskError; return the message."""
    with pytest.raises(DiskError) as caught:
        extract_features.main()
    return str(caught.value)


@pytest.mark.usefixtures("_computing_process")
def test_precisions_have_features_of_their_own(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows in bfloat16 are computed beside those in float32, the log names the precision, and nothing is repeated."""
    before = store.read_recipe(OUTPUT / "0/recipe.json")
    assert "precision" not in before
    for precision, reused in (("bfloat16", 0), ("float32", 64), ("bfloat16", 64)):
        write_params(workspace, {"extract_features": {**SETTINGS, "precision": precision}})
        caplog.clear()
        extract_features.main()
        assert summary(caplog) == f"extract_features: 64 rows, {reused} of them computed before."
        assert ("extract_features: computing in bfloat16." in caplog.messages) == (reused == 0)
    assert store.read_recipe(OUTPUT / "0/recipe.json") == before | {"precision": "bfloat16"}


@pytest.mark.reliability("disk", "no space for the features", "exit 74 before any is computed, with the space needed")
def test_features_for_which_the_disk_has_no_space_are_not_computed(
    small: disks.Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """The space needed is that of the rows to compute, once, as artifacts are hard links to the feature cache."""
    small.mount("remount,size=200k")
    assert disk_error().startswith("The disk of `.cache/features` must have 299 kB free. Received: ")
    assert rows(Path(".cache/features")) == {}
    assert summary(caplog) == "extract_features: 64 rows, 0 of them computed before."


@pytest.mark.reliability(
    "disk", "full in the middle of an extraction", "exit 74; computed rows are kept, and the next run resumes"
)
@pytest.mark.usefixtures("_computing_process")
def test_computed_rows_are_kept_if_the_disk_becomes_full(
    small: disks.Disk, chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of random weights take twice the estimate, so the stage fails in the middle; with space it resumes."""
    assert disk_error().startswith("The disk of `.cache/features/")
    assert not OUTPUT.exists()
    complete = len(rows(Path(".cache/features")))
    assert 8 <= complete < 64
    assert not list(Path(".cache/features").glob("*/.*"))
    small.mount("remount,size=2m")
    caplog.clear()
    extract_features.main()
    assert summary(caplog) == f"extract_features: 64 rows, {complete} of them computed before."
    assert file_contents(OUTPUT) == file_contents(chain.folder / OUTPUT)


@pytest.mark.reliability("disk", "full of rows of earlier runs", "the least recently used rows are evicted")
@pytest.mark.usefixtures("_computing_process")
def test_rows_of_other_runs_are_evicted_for_space(
    small: disks.Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the stage fails for lack of space, rows are evicted, except artifacts and rows that this run needs."""
    monkeypatch.setitem(extract_features.COMPRESSED_FRACTION, "block4_pool", 1.0)  # as with random weights
    small.mount("remount,size=1m")
    other = Path(".cache/features/other")
    other.mkdir(parents=True)
    for number in range(100):
        (other / f"{number}.npz").write_bytes(bytes(8192))
    Path("artifact.npz").hardlink_to(other / "0.npz")
    extract_features.main()
    assert re.search(r"the disk of \.cache/features is full; evicted \d+ rows of other runs", caplog.text)
    assert len(rows(OUTPUT)) == 64
    assert 0 < len(list(other.iterdir())) < 100
    assert (other / "0.npz").exists()


@pytest.mark.usefixtures("small")
def test_space_for_copies_is_required_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the feature cache on another disk, artifacts need space for all rows, the cache for those to compute."""
    settings = params.load("extract_features", extract_features.Params)
    linked = extract_features.space_needed(settings, rows=64, missing=10)
    other_disk = tmp_path / "elsewhere"
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(other_disk))
    copied = extract_features.space_needed(settings, rows=64, missing=10)
    assert linked[Path(".cache/features")] == copied[other_disk / "features"] == 10 * 4096
    assert copied[OUTPUT] - linked[OUTPUT] == 64 * 4096


@pytest.mark.reliability(
    "disk", "a shared feature cache that is read-only", "its rows are used; exit 74 if a row is missing"
)
def test_a_read_only_feature_cache_can_be_used(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows on a read-only disk are copied into the artifacts; a missing row is an error, as it cannot be added."""
    expected = file_contents(OUTPUT)
    with disks.small(tmp_path / "disk", "size=2m") as disk:
        shutil.copytree(".cache/features", disk.path / "features")
        disk.mount("remount,ro")
        monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(disk.path))
        extract_features.main()
        assert summary(caplog) == "extract_features: 64 rows, 64 of them computed before."
        assert file_contents(workspace / OUTPUT) == expected
        write_params(Path(), {"extract_features": {"seed": 1}})
        with pytest.raises(OSError, match="Read-only file system"):
            extract_features.main()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("image_sise", 64, "`image_size`"),
        ("image_size", 16, "greater than or equal to 32"),
        ("frozen_through", "block5_pool", "'block4_pool'"),
        ("resizing", "stretch", "'squash', 'crop' or 'fit'"),
        ("views", -1, "greater than or equal to 0"),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_wrong_parameters_are_reported_by_name(
    capsys: pytest.CaptureFixture[str], name: str, value: object, allowed: str
) -> None:
    """Exit code 78; the message has the parameter's name, what is allowed, and what was received."""
    expected = file_contents(OUTPUT)
    write_params(Path(), {"extract_features": {name: value}})
    with pytest.raises(SystemExit) as end:
        stage.run(extract_features.main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 78
    assert f"`extract_features.{name}`" in last
    assert allowed in last
    assert f"Received: {value!r}" in last
    assert file_contents(OUTPUT) == expected
