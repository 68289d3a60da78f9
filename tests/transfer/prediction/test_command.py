import csv
import functools
import io
import json
import logging
import os
import re
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
    """Load each model once for all tests in this file, none of which changes it."""
    load = functools.cache(model.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "load", lambda path: load(path.resolve()))
        yield


@pytest.fixture
def photographs(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six photographs of both classes in `mine/`; the current folder has the demo's artifacts, too."""
    monkeypatch.chdir(tmp_path)
    Path("artifacts").symlink_to(reproduced.workspace / "artifacts")
    originals = [
        path
        for class_name in ("circle", "triangle")
        for path in sorted((reproduced.workspace / "artifacts/subsample/photos" / class_name).iterdir())[:3]
    ]
    Path("mine").mkdir()
    for number, path in enumerate(originals):
        Path(f"mine/{number}.jpg").write_bytes(path.read_bytes())
    return [Path(f"mine/{number}.jpg") for number in range(6)]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command in this process and reads its CSV."""

    def run(*argv: object) -> list[dict[str, str]]:
        predict.main([*map(str, argv)])
        return rows(capsys.readouterr().out)

    return run


def rows(text: str) -> list[dict[str, str]]:
    """Parse CSV, with line ends in cells kept."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def started(*argv: object, **streams: object) -> "subprocess.Popen[bytes]":
    """Start the command in a process, as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "transfer.prediction", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        **streams,
    )


def test_predictions_agree_with_the_evaluation(
    reproduced: Reproduced, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a folder agree with artifacts/evaluate/predictions.csv, and are sorted by name."""
    monkeypatch.chdir(reproduced.workspace)
    predicted = {row["file"]: row for row in run("artifacts/subsample/photos")}
    assert list(predicted) == sorted(predicted)
    with Path("artifacts/evaluate/predictions.csv").open(newline="") as file:
        evaluated = list(csv.DictReader(file))
    assert evaluated
    for row in evaluated:
        answer = predicted[f"artifacts/subsample/{row['path']}"]
        expected = float(row[f"fine_tune_probability_{answer['class']}"])
        assert float(answer["probability"]) == pytest.approx(expected, abs=5e-3)


def test_rows_follow_the_arguments(photographs: list[Path], run: Run) -> None:
    """Files, folders, patterns and archives are predicted in order; a photograph has the same answer in all."""
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.write(photographs[1], "any/where.jpg")
    predicted = run(photographs[2], "mine", "min?/[45].jpg", "some.zip")
    names = ["mine/2.jpg", *(f"mine/{number}.jpg" for number in (0, 1, 2, 3, 4, 5, 4, 5)), "some.zip/any/where.jpg"]
    assert [row["file"] for row in predicted] == names
    answers = [(row["class"], row["probability"]) for row in predicted]
    assert answers[0] == answers[3]
    assert answers[5:7] == answers[7:9]
    assert answers[9] == answers[2]


@pytest.mark.usefixtures("photographs")
def test_every_format_has_the_same_predictions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV has three columns, JSON the probabilities of all classes, too, and the table is aligned."""
    in_csv = run("mine", "--format", "csv")
    assert list(in_csv[0]) == ["file", "class", "probability"]
    predict.main(["mine", "--format", "json"])
    in_json = json.loads(capsys.readouterr().out)
    predict.main(["mine", "--format", "table"])
    heading, *in_table = capsys.readouterr().out.splitlines()
    assert heading.split() == list(in_csv[0])
    assert len({len(line) for line in [heading, *in_table]}) == 1
    for row, record, line in zip(in_csv, in_json, in_table, strict=True):
        assert list(record) == ["file", "class", "probability", "probabilities"]
        assert set(record["probabilities"]) == {"circle", "triangle"}
        assert record["probabilities"][record["class"]] == record["probability"]
        assert (row["file"], row["class"], float(row["probability"])) == (
            record["file"],
            record["class"],
            pytest.approx(record["probability"], rel=1e-8),
        )
        assert line.split() == [row["file"], row["class"], f"{float(row['probability']):.4f}"]


def test_unreadable_files_are_reported_and_the_others_predicted(
    photographs: list[Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each unreadable file is reported with its reason and counted; the JSON output is valid."""
    Path("mine/cut.jpg").write_bytes(photographs[0].read_bytes()[:400])
    Path("mine/empty.png").touch()
    with zipfile.ZipFile("out.zip", "w") as archive:
        archive.writestr("../mine/0.jpg", b"")
    before = sorted(Path().rglob("*"))
    with pytest.raises(DataError, match=r"^4 of 10 photographs could not be predicted"):
        predict.main(["none.jpg", "mine", "out.zip", "--format", "json"])
    assert [row["file"] for row in json.loads(capsys.readouterr().out)] == [str(path) for path in photographs]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0] == "none.jpg: No such file or directory"
    assert warnings[1].startswith("mine/cut.jpg: cut short or damaged")
    assert warnings[2] == "mine/empty.png: empty file"
    assert warnings[3].startswith("out.zip: An archive's members must be plain files below it")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("photographs")
def test_json_without_predictions_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    """If no photograph can be predicted, the output is an empty list."""
    with pytest.raises(DataError, match="1 of 1"):
        predict.main(["none*.jpg", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.usefixtures("photographs")
def test_any_file_name_can_be_written(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV quotes commas, quotes and line ends; bytes that are not UTF-8 and, in a table, control codes are escaped."""
    names = [b'a, "b".jpg', b"c\nd.jpg", b"e\rf.jpg", b"g\x1b[2J.jpg", b"h\xe9.jpg", "é.jpg".encode()]
    data = Path("mine/0.jpg").read_bytes()
    for name in names:
        Path(os.fsdecode(name)).write_bytes(data)
    written = [row["file"] for row in run(*map(os.fsdecode, names))]
    assert written == ['a, "b".jpg', "c\nd.jpg", "e\rf.jpg", "g\x1b[2J.jpg", "h\\xe9.jpg", "é.jpg"]
    predict.main([*map(os.fsdecode, names), "--format", "table"])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 7
    assert all(character.isprintable() for character in table.replace("\n", ""))


def test_each_photograph_has_a_heat_map_of_its_own(photographs: list[Path], run: Run) -> None:
    """Each photograph has a JPEG with a distinct name in the folder; predictions are the same as without heat maps."""
    Path("mine/A").mkdir()
    Image.new("RGB", (3000, 2000)).save("mine/A/0.png")
    Path("mine_A_0.png").write_bytes(Path("mine/A/0.png").read_bytes())
    arguments = (*photographs[:2], "mine/../mine/A/0.png", "mine_A_0.png", "mine/A", Path("mine/1.jpg").resolve())
    plain, explained = run(*arguments), run(*arguments, "--heatmaps", "maps/here")
    assert [(row["file"], row["class"]) for row in explained] == [(row["file"], row["class"]) for row in plain]
    for row, explained_row in zip(plain, explained, strict=True):
        assert float(row["probability"]) == pytest.approx(float(explained_row["probability"]), rel=1e-5)
    heat_maps = sorted(Path("maps").rglob("*.jpg"))
    assert len(heat_maps) == 6
    assert {path.parent for path in heat_maps} == {Path("maps/here")}
    sizes = [Image.open(path).size for path in heat_maps]
    assert sorted(sizes) == [(40, 40)] * 3 + [(1024, 683)] * 3
    assert {Image.open(path).format for path in heat_maps} == {"JPEG"}


def test_wrong_usage_is_reported_before_tensorflow_is_imported() -> None:
    """Wrong arguments end with 2, without the import of TensorFlow; so does `--help`, with 0."""
    program = (
        "import sys; from transfer.prediction import __main__ as predict\n"
        "for arguments in [], ['--help']:\n"
        "    try: predict.main(arguments)\n"
        "    except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert re.findall(r"^\d \w+$", done.stdout, re.MULTILINE) == ["2 False", "0 False"]
    assert "PHOTOGRAPH" in done.stderr


def test_a_missing_model_is_reported_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no model has been trained yet, the message names the commands that provide one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"artifacts/fine_tune/model\.keras is missing.*`dvc repro`.*`dvc pull`"):
        predict.main(["photo.jpg"])


@pytest.mark.reliability(
    "tampered",
    "a model from elsewhere with code in it, used to predict",
    "65 before any photograph is read; the code is not run",
)
def test_code_in_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code in a network, which would write a file when the network is built or called, is not run."""
    from transfer.network.backend import keras  # noqa: PLC0415 - TensorFlow

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
    """Standard output has only rows; failures go to standard error, and the exit code is 65."""
    with started("-", "none.jpg", stdin=photographs[0].open("rb"), stdout=subprocess.PIPE) as process:
        output, errors = (text.decode() for text in process.communicate(timeout=240))
    assert process.returncode == DataError.exit_code == 65
    assert [row["file"] for row in rows(output)] == ["-"]
    assert output.startswith("file,class,probability\n-,")
    assert errors.splitlines()[0] == "none.jpg: No such file or directory"
    assert errors.splitlines()[-1].startswith("1 of 2 photographs could not be predicted")


@pytest.mark.usefixtures("photographs")
def test_a_closed_pipe_ends_the_command_silently() -> None:
    """If the reader of standard output has ended, as with `| head`, the command ends with 141 and without a message."""
    reading, writing = os.pipe()
    os.close(reading)
    with started("mine", stdout=writing) as process:
        os.close(writing)
        _, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (predict.BROKEN_PIPE, b"")
