import logging
import re
import shutil
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
    files,
    hanging,
    kill_once,
    run,
    start,
    write_params,
    write_photographs,
)
from transfer.features import extraction, store
from transfer.images import manifest
from transfer.runtime import params, stage
from transfer.runtime.errors import DataError, DiskError, ParamsError
from transfer.sources import synthetic

OUTPUT = Path("artifacts/extract_features")
SHEET = "augmentation.jpg"
SETTINGS: dict[str, Any] = PARAMS["extract_features"]


def but_the_sheet(found: dict[str, bytes]) -> dict[str, bytes]:
    """Files without the contact sheet, on which photographs that are new may come first."""
    return {name: content for name, content in found.items() if name != SHEET}


def rows(folder: Path) -> dict[str, int]:
    """The rows in a folder of the memo or of the artifacts, and when each was last written."""
    return {f"{path.parent.name}/{path.stem}": path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}


def said(caplog: pytest.LogCaptureFixture) -> str:
    """The stage's line about what it found."""
    return next(line for line in caplog.messages if line.startswith("extract_features:"))


@pytest.fixture(autouse=True)
def _everything_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def _a_process_that_computes_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's threads are set before its first operation, which the tests' own process has behind it."""
    monkeypatch.setattr(extraction, "give_each_replica_a_core", lambda: None)


def test_every_photograph_has_a_row_and_training_ones_their_views(chain: Chain) -> None:
    """There is a row for view 0 of every photograph and views 1 to n of training photographs only, and no more."""
    entries = manifest.read(chain.folder / "artifacts/split/manifest.csv")
    expected = {f"0/{entry.sha256}" for entry in entries} | {
        f"1/{entry.sha256}" for entry in entries if entry.split == "train"
    }
    found = files(chain.folder / OUTPUT)
    assert set(found) == {"0/recipe.json", "1/recipe.json", SHEET} | {f"{row}.npz" for row in expected}
    assert f"extract_features: {len(expected)} rows, 0 of them computed before." in chain.said["extract_features"]


def test_a_recipe_says_what_a_view_follows_from(chain: Chain) -> None:
    """Each view's recipe.json has the weights, size and boundary; only the augmented view has the augmentation."""
    original, augmented = store.read_recipes(chain.folder / OUTPUT)
    for recipe in (original, augmented):
        assert (recipe["image_size"], recipe["boundary"], recipe["resizing"]) == (32, "block4_pool", "crop")
        assert len(recipe["weights"]) == 64
    assert original["augmentation"] is None
    assert augmented["augmentation"] == {"view": 1, "seed": 0, **SETTINGS["augmentation"]}


def test_a_view_is_another_picture(chain: Chain) -> None:
    """An augmented view's activations are not the photograph's own; both have the network's shapes."""
    entry = manifest.read(chain.folder / "artifacts/split/manifest.csv")[0]
    recipes = [store.recipe_digest(recipe) for recipe in store.read_recipes(chain.folder / OUTPUT)]
    original, augmented = (
        store.read_row(chain.folder / OUTPUT / str(view) / f"{entry.sha256}.npz", recipe=recipe, photo=entry.sha256)
        for view, recipe in enumerate(recipes)
    )
    assert original.boundary.shape == augmented.boundary.shape == (2, 2, 512)
    assert original.pooled.shape == (1, 1, 512)
    assert not np.array_equal(original.boundary, augmented.boundary)


def test_examples_of_the_views_are_shown(chain: Chain) -> None:
    """A contact sheet has a row for each of six training photographs: itself and its view, which looks different."""
    with Image.open(chain.folder / OUTPUT / "augmentation.jpg") as image:
        sheet = np.asarray(image.convert("RGB"), np.float64)
    height, width = sheet.shape[0] // 6, sheet.shape[1] // 2
    assert abs(sheet.shape[1] / 2 - (sheet.shape[0] - 30) / 6) < 8  # squares, below the headings
    for row in range(6):
        original, view = (sheet[-(row + 1) * height :][:height, side * width :][:, :width] for side in (0, 1))
        assert original.std() > 10
        assert np.abs(original - view).mean() > 3


def test_views_that_would_be_copies_are_refused() -> None:
    """Views with all of the augmentation off are no more photographs than there were."""
    off = {
        name: 1.0 if name in ("zoom", "stretch") else 0.0 for name in ("rotation", "shift", "zoom", "shear", "stretch")
    }
    changed = SETTINGS | {"augmentation": SETTINGS["augmentation"] | off | {"horizontal_flip": False}}
    with pytest.raises(ParamsError, match="they would be copies"):
        params.parse("extract_features", changed, extract_features.Params)
    params.parse("extract_features", changed | {"views": 0}, extract_features.Params)


def test_a_second_run_computes_nothing(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Run again, the stage says that every row was computed before, writes none and leaves the same files."""
    memo, artifacts = rows(Path(".cache/features")), files(OUTPUT)
    extract_features.main()
    assert said(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert rows(Path(".cache/features")) == memo
    assert files(workspace / OUTPUT) == artifacts


@pytest.mark.usefixtures("workspace", "_a_process_that_computes_already")
def test_another_augmentation_leaves_the_photographs_rows_alone(caplog: pytest.LogCaptureFixture) -> None:
    """With other views, view 0 keeps its recipe and its rows; with the old ones again, nothing at all is computed."""
    memo, artifacts = rows(Path(".cache/features")), files(OUTPUT)
    changed = {"augmentation": {**SETTINGS["augmentation"], "rotation": 5.0}}
    write_params(Path(), {"extract_features": changed})
    extract_features.main()
    assert said(caplog) == "extract_features: 64 rows, 40 of them computed before."
    after = files(OUTPUT)
    same = {name for name in artifacts if artifacts[name] == after[name]}
    assert same == {name for name in artifacts if name.startswith("0/")}
    assert memo.items() <= rows(Path(".cache/features")).items()

    caplog.clear()
    write_params(Path(), {})
    extract_features.main()
    assert said(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert files(OUTPUT) == artifacts


@pytest.mark.usefixtures("workspace", "_a_process_that_computes_already")
def test_more_photographs_cost_only_their_own_rows(caplog: pytest.LogCaptureFixture) -> None:
    """Photographs that are new are computed, the others' rows are the very files they were."""
    memo, artifacts = rows(Path(".cache/features")), but_the_sheet(files(OUTPUT))
    entries = write_photographs(Path(), numbers=range(25))
    new = {entry.sha256 for entry in entries[40:]}
    extract_features.main()
    assert said(caplog) == "extract_features: 80 rows, 64 of them computed before."
    assert artifacts.items() <= files(OUTPUT).items()
    assert memo.items() <= rows(Path(".cache/features")).items()
    assert {row.split("/")[1] for row in rows(Path(".cache/features")).keys() - memo.keys()} == new


def test_a_row_is_the_same_in_any_company(workspace: Path) -> None:
    """Without the memo, in another order and among more photographs, every row is computed to the same bytes."""
    expected = but_the_sheet(files(OUTPUT))
    shutil.rmtree(".cache")
    entries = write_photographs(workspace, numbers=range(23))
    manifest.write(Path("artifacts/split/manifest.csv"), entries[::-1])
    assert "76 rows, 0 of them computed before." in run("extract_features", workspace)
    assert expected.items() <= files(OUTPUT).items()


@pytest.mark.reliability("killed", "extraction goes on after it was killed", "no row that was whole is computed again")
def test_a_killed_extraction_goes_on_where_it_stopped(workspace: Path) -> None:
    """Killed in the middle it leaves no artifacts; then it computes only what is missing, to the same bytes."""
    expected, memo = files(OUTPUT), Path(".cache/features")
    shutil.rmtree(OUTPUT)
    shutil.rmtree(memo)
    photographs = manifest.read(Path("artifacts/split/manifest.csv"))
    before = {entry.sha256 for entry in photographs[:10]}  # in batches before that of the photograph that hangs
    with hanging(Path("artifacts/subsample", photographs[20].path)):
        kill_once(
            start("extract_features", workspace),
            lambda: before <= {path.stem for path in memo.glob("*/*.npz")},
        )
    assert not OUTPUT.exists()
    kept = rows(memo)
    assert 10 <= len(kept) < 64
    assert f"64 rows, {len(kept)} of them computed before." in run("extract_features", workspace)
    assert kept.items() <= rows(memo).items()
    assert files(OUTPUT) == expected


@pytest.mark.parametrize("content", [b"no photograph", synthetic.draw("star", 0, size=EDGE, seed=0)])
@pytest.mark.usefixtures("_a_process_that_computes_already")
def test_another_photograph_in_its_place_is_refused(workspace: Path, content: bytes) -> None:
    """A photograph that is damaged or another one fails with its name, computes no row and leaves the earlier ones."""
    expected = files(OUTPUT)
    added = write_photographs(workspace, numbers=range(21))[-1]
    Path("artifacts/subsample", added.path).write_bytes(content)
    with pytest.raises(DataError, match=rf"{added.path} must be .*dvc repro --single-item --force subsample"):
        extract_features.main()
    assert files(OUTPUT) == expected
    assert not any(row.endswith(added.sha256) for row in rows(Path(".cache/features")))


def test_another_workspace_shares_the_memo(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fresh clone with `DOGS_VS_CATS_CACHE` at another's memo computes nothing and keeps no memo of its own."""
    expected = files(OUTPUT)
    shutil.move(".cache", tmp_path / "shared")
    shutil.rmtree(OUTPUT)
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "shared"))
    extract_features.main()
    assert said(caplog) == "extract_features: 64 rows, 64 of them computed before."
    assert files(OUTPUT) == expected
    assert not (workspace / ".cache").exists()


@pytest.fixture
def small(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[disks.Disk]:
    """A disk with room for half of the rows, as the current folder, with the stage's inputs at hand."""
    monkeypatch.delenv("DOGS_VS_CATS_CACHE", raising=False)
    with disks.small(tmp_path / "disk", "size=400k") as disk:
        (disk.path / "artifacts").mkdir()
        for name in ("artifacts/split", "artifacts/subsample", "artifacts/fetch_weights", "params.yaml"):
            (disk.path / name).symlink_to(chain.folder / name)
        monkeypatch.chdir(disk.path)
        yield disk
        monkeypatch.undo()


def refusal() -> str:
    """What the stage ends with."""
    with pytest.raises(DiskError) as refused:
        extract_features.main()
    return str(refused.value)


@pytest.mark.reliability("disk", "no room for the features", "exit 74 before any is computed, with what is needed")
def test_features_that_do_not_fit_are_not_begun(small: disks.Disk, caplog: pytest.LogCaptureFixture) -> None:
    """Rows to compute times a row's size is asked for, once where artifacts are hard links to the memo."""
    small.mount("remount,size=200k")
    assert refusal().startswith("The disk of `.cache/features` must have 287 kB free. Received: ")
    assert rows(Path(".cache/features")) == {}
    assert said(caplog) == "extract_features: 64 rows, 0 of them computed before."


@pytest.mark.reliability("disk", "full in the middle of an extraction", "exit 74; computed rows are kept; it goes on")
@pytest.mark.usefixtures("_a_process_that_computes_already")
def test_a_disk_that_gets_full_keeps_what_was_computed(
    small: disks.Disk, chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of weights that have learned nothing take twice the room: it ends in the middle, and goes on with more."""
    assert refusal().startswith("The disk of `.cache/features/")
    assert not OUTPUT.exists()
    kept = len(rows(Path(".cache/features")))
    assert 8 <= kept < 64
    assert not list(Path(".cache/features").glob("*/.*"))
    small.mount("remount,size=2m")
    caplog.clear()
    extract_features.main()
    assert said(caplog) == f"extract_features: 64 rows, {kept} of them computed before."
    assert files(OUTPUT) == files(chain.folder / OUTPUT)


@pytest.mark.reliability("disk", "full of rows of earlier runs", "the least recently used are forgotten to make room")
@pytest.mark.usefixtures("_a_process_that_computes_already")
def test_rows_of_other_runs_make_room(
    small: disks.Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The memo gives way before the stage fails; artifacts, and the rows this run has use for, stay."""
    monkeypatch.setitem(extract_features.STORED, "block4_pool", 1.0)  # as weights that have learned nothing leave it
    small.mount("remount,size=1m")
    other = Path(".cache/features/other")
    other.mkdir(parents=True)
    for number in range(100):
        (other / f"{number}.npz").write_bytes(bytes(8192))
    Path("artifact.npz").hardlink_to(other / "0.npz")
    extract_features.main()
    assert re.search(r"extract_features: the disk of \.cache/features is full: \d+ rows of other runs are", caplog.text)
    assert len(rows(OUTPUT)) == 64
    assert 0 < len(list(other.iterdir())) < 100
    assert (other / "0.npz").exists()


@pytest.mark.usefixtures("small")
def test_a_copy_is_reckoned_with_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the memo on another disk the artifacts need room for every row, the memo for those to compute."""
    settings = params.load("extract_features", extract_features.Params)
    linked = extract_features.needs(settings, wanted=64, missing=10)
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(elsewhere))
    copied = extract_features.needs(settings, wanted=64, missing=10)
    assert linked[Path(".cache/features")] == copied[elsewhere / "features"] == 10 * 4096
    assert copied[OUTPUT] - linked[OUTPUT] == 64 * 4096


@pytest.mark.reliability("disk", "a shared memo that is read-only", "its rows are used; a new one ends with exit 74")
def test_a_memo_that_may_only_be_read(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows on a read-only disk are copied into the artifacts; what is not there cannot be added."""
    expected = files(OUTPUT)
    with disks.small(tmp_path / "disk", "size=2m") as disk:
        shutil.copytree(".cache/features", disk.path / "features")
        disk.mount("remount,ro")
        monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(disk.path))
        extract_features.main()
        assert said(caplog) == "extract_features: 64 rows, 64 of them computed before."
        assert files(workspace / OUTPUT) == expected
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
def test_wrong_params_are_named(capsys: pytest.CaptureFixture[str], name: str, value: object, allowed: str) -> None:
    """A parameter that is unknown or out of range ends the stage with 78, its name, what is allowed and received."""
    expected = files(OUTPUT)
    write_params(Path(), {"extract_features": {name: value}})
    with pytest.raises(SystemExit) as end:
        stage.run(extract_features.main)
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 78
    assert f"`extract_features.{name}`" in last
    assert allowed in last
    assert f"Received: {value!r}" in last
    assert files(OUTPUT) == expected
