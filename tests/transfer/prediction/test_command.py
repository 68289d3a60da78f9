import csv
import functools
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Reproduced
from transfer.images import decoding
from transfer.network.card import describe
from transfer.prediction import command as predict
from transfer.prediction import model
from transfer.runtime.errors import DataError
from transfer.runtime.files import sha256, write_json
from transfer.sources import synthetic

ROOT = Path(__file__).parents[3]

Run = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="module", autouse=True)
def _loaded_once() -> Iterator[None]:
    """Load each model once for all tests in this file, none of which changes it."""
    load = functools.cache(model.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "load", lambda path, **options: load(path.resolve(), **options))
        yield


@pytest.fixture
def photographs(reproduced: Reproduced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six photographs of both classes in `mine/`; the current folder has the demo's artifacts, too."""
    monkeypatch.chdir(tmp_path)
    Path("artifacts").symlink_to(reproduced.workspace / "artifacts")
    originals = [
        path
        for class_name in ("cat", "dog")
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
    """CSV has four columns, JSON the probabilities of all classes, too, and the table is aligned."""
    in_csv = run("mine", "--format", "csv")
    assert list(in_csv[0]) == ["file", "class", "probability", "answer"]
    predict.main(["mine", "--format", "json"])
    in_json = json.loads(capsys.readouterr().out)
    predict.main(["mine", "--format", "table"])
    heading, *in_table = capsys.readouterr().out.splitlines()
    assert heading.split() == list(in_csv[0])
    assert len({line.rindex("  ") for line in [heading, *in_table]}) == 1
    for row, record, line in zip(in_csv, in_json, in_table, strict=True):
        assert list(record) == ["file", "class", "probability", "answer", "probabilities"]
        assert set(record["probabilities"]) == {"cat", "dog"}
        assert record["probabilities"][record["class"]] == record["probability"]
        assert (row["file"], row["class"], float(row["probability"]), row["answer"]) == (
            record["file"],
            record["class"],
            pytest.approx(record["probability"], rel=1e-8),
            record["answer"],
        )
        assert line.split(maxsplit=3) == [row["file"], row["class"], f"{float(row['probability']):.4f}", row["answer"]]


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
    assert warnings[1].startswith("out.zip: The members of an archive must be plain files inside it")
    assert warnings[2].startswith("mine/cut.jpg: cut short or damaged")
    assert warnings[3] == "mine/empty.png: empty file"
    assert sorted(Path().rglob("*")) == before


def test_one_photograph_of_a_batch_is_in_memory_at_a_time(
    photographs: list[Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core resizes each photograph before it decodes the next one."""
    decode, decoded = decoding.decode, threading.local()

    def decode_alone(data: bytes) -> Image.Image:
        assert getattr(decoded, "last", lambda: None)() is None
        photograph = decode(data)
        decoded.last = weakref.ref(photograph)
        return photograph

    monkeypatch.setattr(decoding, "decode", decode_alone)
    assert len(run(*photographs)) == len(photographs)


@pytest.mark.usefixtures("photographs")
def test_json_without_predictions_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    """If no photograph can be predicted, the output is an empty list."""
    with pytest.raises(DataError, match="1 of 1 photograph could"):
        predict.main(["none*.jpg", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.usefixtures("photographs")
def test_any_file_name_can_be_written(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV quotes commas and line ends, and escapes control codes, formulas and bytes that are not UTF-8."""
    names = [b"=1+1.jpg", b'a, "b".jpg', b"c\nd.jpg", b"e\rf.jpg", b"g\x1b[2J.jpg", b"h\xe9.jpg", "é.jpg".encode()]
    data = Path("mine/0.jpg").read_bytes()
    for name in names:
        Path(os.fsdecode(name)).write_bytes(data)
    written = [row["file"] for row in run(*map(os.fsdecode, names))]
    assert written == ["'=1+1.jpg", 'a, "b".jpg', "c\nd.jpg", "e\rf.jpg", r"g\x1b[2J.jpg", r"h\xe9.jpg", "é.jpg"]
    predict.main([*map(os.fsdecode, names), "--format", "table"])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 8
    assert all(character.isprintable() for character in table.replace("\n", ""))


def test_each_photograph_has_a_heat_map_of_its_own(photographs: list[Path], run: Run) -> None:
    """Heat maps are JPEGs named after the photographs, and a page shows them; predictions are the same as without."""
    Path("mine/A").mkdir()
    Image.new("RGB", (3000, 2000)).save("mine/A/0.png")
    Path("0.png").write_bytes(Path("mine/A/0.png").read_bytes())
    arguments = (*photographs[:2], "mine/../mine/A/0.png", "0.png", "mine/A", Path("mine/1.jpg").resolve())
    plain, explained = run(*arguments), run(*arguments, "--heatmaps", "maps/here")
    assert [(row["file"], row["class"]) for row in explained] == [(row["file"], row["class"]) for row in plain]
    for row, explained_row in zip(plain, explained, strict=True):
        assert float(row["probability"]) == pytest.approx(float(explained_row["probability"]), rel=1e-5)
    names = ["0.jpg", "1.jpg", "0-2.jpg", "0-3.jpg", "0-4.jpg", "1-2.jpg"]
    assert sorted(path.name for path in Path("maps/here").iterdir()) == sorted([*names, "index.html"])
    heat_maps = [Image.open(Path("maps/here", name)) for name in names]
    assert [image.size for image in heat_maps] == [(40, 40)] * 2 + [(1024, 683)] * 3 + [(40, 40)]
    assert {image.format for image in heat_maps} == {"JPEG"}
    page = Path("maps/here/index.html").read_text()
    assert re.findall(r'<img src="([^"]*)"', page) == names
    assert re.findall(r"<code>([^<]*)</code>", page) == [row["file"] for row in explained]


@pytest.mark.usefixtures("photographs")
def test_the_photographs_to_label_next_are_written(
    run: Run, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Copies of the most doubtful photograph are written once, its row first; a damaged file is named and skipped."""
    caplog.set_level(logging.INFO)
    first = run("--least-certain", 1, "mine")[0]
    for number in range(3):
        Image.open(first["file"]).save(f"mine/copy-{number}.png")
    Path("mine/damaged.jpg").write_bytes(b"no photograph")
    with pytest.raises(DataError, match=r"1 of 10 photographs could not be predicted"):
        run("--least-certain", 3, "--sheet", "next.jpg", "mine")
    chosen = [row["file"] for row in rows(capsys.readouterr().out)]
    assert len(chosen) == 3
    assert sum(file == first["file"] or "copy" in file for file in chosen) == 1
    assert any(line.startswith("mine/damaged.jpg: ") for line in caplog.messages)
    assert Image.open("next.jpg").size[0] > 3 * 160


@pytest.mark.usefixtures("photographs")
def test_skipped_files_are_reported(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Files that are not predicted are counted in one line, and one photograph is "1 photograph"."""
    caplog.set_level(logging.INFO)
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    Path("other/1.jpg").symlink_to(Path("mine/0.jpg").resolve())
    assert len(run("other")) == 1
    messages = [record.message for record in caplog.records]
    assert messages[0] == "Skipped: 1 .txt."
    assert messages[-1] in {"1 photograph: 1 cat, 0 dog", "1 photograph: 0 cat, 1 dog"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet", "next.jpg", "a.jpg"], "--sheet needs --least-certain"),
        (["--least-certain", "3", "--heatmaps", "maps", "a.jpg"], "--heatmaps exclude each other"),
        (["--least-certain", "3", "-"], "reads photographs twice"),
        (["--least-certain", "none", "a.jpg"], "a number from 1 on"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 2 and the reason before a photograph or the network is read."""
    with pytest.raises(SystemExit) as end:
        predict.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("photographs")
def test_errors_in_the_arguments_are_reported_before_tensorflow_is_imported() -> None:
    """Wrong usage, missing photographs and files that are no model are reported without the import of TensorFlow."""
    Path("no.keras").write_bytes(b"no network")
    Path("alone.keras").write_bytes(Path("artifacts/fine_tune/model.keras").read_bytes())
    program = (
        "import sys; from transfer.prediction import command as predict\n"
        "for arguments in [], ['--help'], ['none.jpg'], ['mine', '--heatmaps', 'mine'], "
        "*(['mine', '--model', name] for name in ('none.keras', 'no.keras', 'alone.keras', 'mine')):\n"
        "    try: predict.main(arguments)\n"
        "    except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)\n"
        "    except predict.DataError as error: print(error.exit_code, 'tensorflow' in sys.modules, error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    lines = re.findall(r"^\d+ (?:False|True).*$", done.stdout, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["2", "0", "65", "2", *["65"] * 4]
    assert {line.split()[1] for line in lines} == {"False"}
    assert "none.jpg: No such file or directory" in done.stderr
    assert "new or empty folder, or one of earlier heat maps. Received: mine" in done.stderr
    reasons = ("none.keras is missing", "no.keras must be a network", "alone.keras must have a model.json", "a folder.")
    for line, reason in zip(lines[4:], reasons, strict=True):
        assert reason in line
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
    card = describe(["cat", "dog"], {"image_size": 8, "resizing": "crop"}, {}, {}, {})
    write_json(Path("model.json"), {**card, "sha256": sha256(Path("model.keras"))})
    Path("photo.jpg").write_bytes(synthetic.draw("cat", 0, size=40, seed=0))
    with pytest.raises(DataError, match=r"not a network this project saved: it asks for `keras\.layers\.Lambda`"):
        predict.main(["photo.jpg", "--model", "model.keras"])
    assert not Path("ran").exists()


def test_as_a_process(photographs: list[Path]) -> None:
    """Standard output has only rows; failures go to standard error, and the exit code is 65."""
    with started("-", "none.jpg", stdin=photographs[0].open("rb"), stdout=subprocess.PIPE) as process:
        output, errors = (text.decode() for text in process.communicate(timeout=240))
    assert process.returncode == DataError.exit_code == 65
    assert [row["file"] for row in rows(output)] == ["-"]
    assert output.startswith("file,class,probability,answer\n-,")
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
