import csv
import functools
import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Reproduced
from transfer.prediction import __main__ as predict
from transfer.prediction import model
from transfer.runtime.errors import DataError

ROOT = Path(__file__).parents[3]

Run = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="module", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Each model is loaded once for all tests here, none of which changes it."""
    load = functools.cache(model.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "load", lambda path: load(path.resolve()))
        yield


@pytest.fixture
def photographs(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six photographs of both classes in a folder of the current one, which has the demo's artifacts too."""
    monkeypatch.chdir(tmp_path)
    Path("artifacts").symlink_to(reproduced.workspace / "artifacts")
    taken = [
        path
        for class_name in ("circle", "triangle")
        for path in sorted((reproduced.workspace / "artifacts/subsample/photos" / class_name).iterdir())[:3]
    ]
    Path("mine").mkdir()
    for number, path in enumerate(taken):
        Path(f"mine/{number}.jpg").write_bytes(path.read_bytes())
    return [Path(f"mine/{number}.jpg") for number in range(6)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process and reads its CSV."""

    def run(*argv: object) -> list[dict[str, str]]:
        predict.main([*map(str, argv)])
        return rows(capsys.readouterr().out)

    return run


def rows(text: str) -> list[dict[str, str]]:
    """CSV read, with every character that stands in it."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def started(*argv: object, **streams: object) -> "subprocess.Popen[bytes]":
    """The command started as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "transfer.predict", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        **streams,
    )


def test_every_test_photograph_is_predicted_as_it_was_evaluated(
    reproduced: Reproduced, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a folder agree with artifacts/evaluate/predictions.csv, in order of their names."""
    monkeypatch.chdir(reproduced.workspace)
    found = {row["file"]: row for row in run("artifacts/subsample/photos")}
    assert list(found) == sorted(found)
    with Path("artifacts/evaluate/predictions.csv").open(newline="") as file:
        evaluated = list(csv.DictReader(file))
    assert evaluated
    for row in evaluated:
        ours = found[f"artifacts/subsample/{row['path']}"]
        assert float(ours["probability"]) == pytest.approx(
            float(row[f"fine_tune_probability_{ours['class']}"]), abs=5e-3
        )


def test_rows_follow_the_arguments(photographs: list[Path], run: Run) -> None:
    """Files, folders, patterns and archives are predicted in their order; a photograph has one answer in all."""
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.write(photographs[1], "any/where.jpg")
    found = run(photographs[2], "mine", "min?/[45].jpg", "some.zip")
    names = ["mine/2.jpg", *(f"mine/{number}.jpg" for number in (0, 1, 2, 3, 4, 5, 4, 5)), "some.zip/any/where.jpg"]
    assert [row["file"] for row in found] == names
    answers = [(row["class"], row["probability"]) for row in found]
    assert answers[0] == answers[3]
    assert answers[5:7] == answers[7:9]
    assert answers[9] == answers[2]


@pytest.mark.usefixtures("photographs")
def test_every_format_says_the_same(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV has its three columns, JSON all classes, and the table is aligned."""
    in_csv = run("mine", "--format", "csv")
    assert list(in_csv[0]) == ["file", "class", "probability"]
    predict.main(["mine", "--format", "json"])
    in_json = json.loads(capsys.readouterr().out)
    predict.main(["mine", "--format", "table"])
    heading, *in_table = capsys.readouterr().out.splitlines()
    assert heading.split() == list(in_csv[0])
    assert len({len(line) for line in [heading, *in_table]}) == 1
    for one, other, line in zip(in_csv, in_json, in_table, strict=True):
        assert list(other) == ["file", "class", "probability", "probabilities"]
        assert set(other["probabilities"]) == {"circle", "triangle"}
        assert other["probabilities"][other["class"]] == other["probability"]
        assert (one["file"], one["class"], float(one["probability"])) == (
            other["file"],
            other["class"],
            pytest.approx(other["probability"], rel=1e-8),
        )
        assert line.split() == [one["file"], one["class"], f"{float(one['probability']):.4f}"]


def test_bad_files_are_named_and_the_rest_is_done(
    photographs: list[Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each file that cannot be read is reported with its reason and counted; JSON stays whole."""
    Path("mine/cut.jpg").write_bytes(photographs[0].read_bytes()[:400])
    Path("mine/empty.png").touch()
    with zipfile.ZipFile("out.zip", "w") as archive:
        archive.writestr("../mine/0.jpg", b"")
    before = sorted(Path().rglob("*"))
    with pytest.raises(DataError, match=r"^4 of 10 photographs could not be predicted"):
        predict.main(["none.jpg", "mine", "out.zip", "--format", "json"])
    assert [row["file"] for row in json.loads(capsys.readouterr().out)] == [str(path) for path in photographs]
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said[0] == "none.jpg: No such file or directory"
    assert said[1].startswith("mine/cut.jpg: cut short or damaged")
    assert said[2] == "mine/empty.png: empty file"
    assert said[3].startswith("out.zip: An archive's members must be plain files below it")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("photographs")
def test_nothing_to_predict_is_whole_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A list without rows is a list."""
    with pytest.raises(DataError, match="1 of 1"):
        predict.main(["none*.jpg", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.usefixtures("photographs")
def test_any_name_is_written_so_that_it_can_be_read(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Commas, quotes and line ends come back from CSV; no UTF-8 is escaped; a terminal is not told what to do."""
    names = [b'a, "b".jpg', b"c\nd.jpg", b"e\rf.jpg", b"g\x1b[2J.jpg", b"h\xe9.jpg", "é.jpg".encode()]
    data = Path("mine/0.jpg").read_bytes()
    for name in names:
        Path(os.fsdecode(name)).write_bytes(data)
    found = [row["file"] for row in run(*map(os.fsdecode, names))]
    assert found == ['a, "b".jpg', "c\nd.jpg", "e\rf.jpg", "g\x1b[2J.jpg", "h\\xe9.jpg", "é.jpg"]
    predict.main([*map(os.fsdecode, names), "--format", "table"])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 7
    assert all(character.isprintable() for character in table.replace("\n", ""))


def test_heat_maps_lie_beside_each_other(photographs: list[Path], run: Run) -> None:
    """Every photograph has a JPEG in the folder under a name of its own; the answers stay what they were."""
    Path("mine/A").mkdir()
    Image.new("RGB", (3000, 2000)).save("mine/A/0.png")
    Path("mine_A_0.png").write_bytes(Path("mine/A/0.png").read_bytes())
    given = (*photographs[:2], "mine/../mine/A/0.png", "mine_A_0.png", "mine/A", Path("mine/1.jpg").resolve())
    plain, explained = run(*given), run(*given, "--heatmaps", "seen/here")
    assert [(row["file"], row["class"]) for row in explained] == [(row["file"], row["class"]) for row in plain]
    for one, other in zip(plain, explained, strict=True):
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), rel=1e-5)
    made = sorted(Path("seen").rglob("*.jpg"))
    assert len(made) == 6
    assert {path.parent for path in made} == {Path("seen/here")}
    sizes = [Image.open(path).size for path in made]
    assert sorted(sizes) == [(40, 40)] * 3 + [(1024, 683)] * 3
    assert {Image.open(path).format for path in made} == {"JPEG"}


def test_no_arguments_are_a_mistake_told_at_once() -> None:
    """Wrong usage ends with 2, without waiting for TensorFlow."""
    program = (
        "import sys; from transfer.prediction import __main__\n"
        "try: predict.main([])\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "PHOTOGRAPH" in done.stderr


def test_a_missing_model_is_told_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing has been trained yet, the message says how to get there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"artifacts/fine_tune/model\.keras is missing.*`dvc repro`.*`dvc pull`"):
        predict.main(["photo.jpg"])


@pytest.mark.reliability(
    "tampered",
    "a stranger's model with code in it, given to predict",
    "65 before any photograph is read; nothing is run",
)
def test_code_in_a_stranger_s_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that would make a file when it is built or asked makes none."""
    from transfer.backend import keras  # noqa: PLC0415 - TensorFlow

    def attack(pixels: Any) -> Any:
        Path("ran").touch()
        return pixels

    monkeypatch.chdir(tmp_path)
    layers = [keras.layers.Lambda(attack), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    keras.Sequential([keras.Input((8, 8, 3)), *layers]).save("model.keras")
    Path("ran").unlink()
    with pytest.raises(DataError, match=r"not a network this project saved: it asks for `keras\.layers\.Lambda`"):
        predict.main(["photo.jpg", "--model", "model.keras"])
    assert not Path("ran").exists()


def test_as_a_process(photographs: list[Path]) -> None:
    """Only rows go to standard output; what went wrong is the exit code and the last words on standard error."""
    with started("-", "none.jpg", stdin=photographs[0].open("rb"), stdout=subprocess.PIPE) as process:
        said, words = (text.decode() for text in process.communicate(timeout=240))
    assert process.returncode == DataError.exit_code == 65
    assert [row["file"] for row in rows(said)] == ["-"]
    assert said.startswith("file,class,probability\n-,")
    assert words.splitlines()[0] == "none.jpg: No such file or directory"
    assert words.splitlines()[-1].startswith("1 of 2 photographs could not be predicted")


@pytest.mark.usefixtures("photographs")
def test_a_reader_that_has_gone_ends_it_in_silence() -> None:
    """As before `| head`, nothing is said when standard output is closed at the other end."""
    ours, theirs = os.pipe()
    os.close(ours)
    with started("mine", stdout=theirs) as process:
        os.close(theirs)
        _, words = process.communicate(timeout=240)
    assert (process.returncode, words) == (predict.READER_HAS_GONE, b"")
