import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import networks
from tests.servers import SIGNATURE, TOKEN, Fault, StandIn, serve
from transfer.images import manifest
from transfer.prediction import submit
from transfer.runtime.errors import AccessError, DataError, NetworkError
from transfer.sources import synthetic

ROOT = Path(__file__).parents[3]
TESTS = 6  # photographs; those with an even id are dogs
LATER = "--competition=dogs-vs-cats-redux-kernels-edition"


def draw(number: int) -> bytes:
    """A picture of a cat or a dog."""
    return synthetic.draw("dog" if number % 2 == 0 else "cat", number, size=networks.SIZE + 8, seed=1)


def archive(path: Path, *, damaged: int | None = None) -> Path:
    """Write an archive as Kaggle's; the photograph `damaged` cannot be read."""
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as tests:
        for number in range(1, TESTS + 1):
            tests.writestr(f"test1/{number}.jpg", b"no picture" if number == damaged else draw(number))
    with zipfile.ZipFile(outer, "w") as content:
        content.writestr("test1.zip", inner.getvalue())
        content.writestr("sampleSubmission.csv", "id,label\n" + "".join(f"{n},0\n" for n in range(TESTS, 0, -1)))
    path.write_bytes(outer.getvalue())
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose network knows the test photographs and those of the validation split, the current folder."""
    folder = tmp_path_factory.mktemp("project")
    entries = []
    for number in range(1, TESTS + 1):
        class_name, data = "dog" if number % 2 == 0 else "cat", draw(number)
        path = folder / f"artifacts/subsample/photos/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest, size = hashlib.sha256(data).hexdigest(), networks.SIZE + 8
        entries.append(manifest.Entry(f"photos/{number}.jpg", class_name, digest, size, size, "validation"))
    manifest.write(folder / "artifacts/split/manifest.csv", entries)
    networks.write(
        folder / "artifacts/fine_tune",
        folder / "artifacts/subsample",
        entries,
        logit=20.0,
        trained_on=folder / "artifacts/split/manifest.csv",
    )
    return folder


@pytest.fixture
def lines(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Callable[..., list[str]]:
    """Run the command in the project, with a cache of its own; return the lines of the submission."""
    caplog.set_level("INFO")
    monkeypatch.chdir(project)
    monkeypatch.setenv("DOGS_VS_CATS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*arguments: str) -> list[str]:
        submit.main([*arguments, f"--output={tmp_path / 'submission.csv'}"])
        return (tmp_path / "submission.csv").read_text().splitlines()

    return run


Lines = Callable[..., list[str]]


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[StandIn]:
    """Kaggle, with the archive; no output shows a token or a signature."""
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(archive(tmp_path / "kaggle.zip").read_bytes()) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
    output = "".join(capfd.readouterr())
    assert TOKEN not in output
    assert SIGNATURE not in output


def test_labels_for_the_first_competition(
    lines: Lines, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each id of the sample, in its order, has the label of its photograph; the network is named."""
    expected = ["id,label", *(f"{number},{int(number % 2 == 0)}" for number in range(TESTS, 0, -1))]
    assert lines(str(archive(tmp_path / "a.zip"))) == expected
    assert "the newest, as none is in production" in caplog.text
    assert capfd.readouterr().out == ""
    assert not list((tmp_path / "cache/submit").glob("tmp*"))


def test_probabilities_for_the_later_competition(
    lines: Lines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Probabilities are clipped as is best for the validation photographs, or as the user says."""
    _, *rows = lines(LATER, str(archive(tmp_path / "a.zip")))
    values = np.array([float(row.partition(",")[2]) for row in rows])
    assert values == pytest.approx(np.where(values > 0.5, 1 - 1 / (TESTS + 1), 1 / (TESTS + 1)), abs=0.005)
    assert re.search(r"Clipped to 0\.14\d\d .* 6 validation photographs", caplog.text)
    _, *rows = lines(LATER, "--clip=0.02", str(archive(tmp_path / "a.zip")))
    assert {row.partition(",")[2] for row in rows} == {"0.980000", "0.020000"}


def test_another_split_gives_no_bound(lines: Lines, project: Path, tmp_path: Path) -> None:
    """Photographs that the network may have been trained on choose no bound; the message has the option that helps."""
    card = project / "artifacts/fine_tune/model.json"
    original = card.read_text()
    try:
        card.write_text(json.dumps(json.loads(original) | {"trained_on": {"photographs": "another"}}))
        with pytest.raises(DataError, match=r"Received: another split, or none\. Choose a bound with `--clip`"):
            lines(LATER, str(archive(tmp_path / "a.zip")))
    finally:
        card.write_text(original)


def test_unreadable_photographs_are_never_silent(
    lines: Lines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are named, and there is no submission unless the user accepts 0.5 for them."""
    broken = str(archive(tmp_path / "a.zip", damaged=3))
    with pytest.raises(DataError, match=r"1 of 6 test photographs could not be read.*--accept-unreadable"):
        lines(broken)
    assert "test1/3.jpg: not one of JPEG" in caplog.text
    assert not (tmp_path / "submission.csv").exists()
    assert "3,0.500000" in lines(LATER, "--accept-unreadable", "--clip=0.01", broken)


def test_the_archive_is_downloaded_once_and_the_file_is_sent_if_told_to(
    lines: Lines, kaggle: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is sent without `--send`; with it, the file that was written arrives, and nothing is predicted again."""
    lines()
    assert kaggle.gets
    assert not kaggle.uploaded
    requests = len(kaggle.gets)
    content = lines("--send=VGG16")
    assert len(kaggle.gets) == requests
    assert kaggle.uploaded == ["".join(f"{line}\n" for line in content).encode()]
    assert kaggle.submissions[0]["submissionDescription"] == "VGG16"
    assert "Kaggle: Successfully submitted to Dogs vs. Cats" in caplog.text


def test_a_failed_upload_keeps_the_file(lines: Lines, kaggle: StandIn, tmp_path: Path) -> None:
    """The command fails as the upload does; the submission is there, so that the same command only sends it."""
    kaggle.submission_faults = [Fault(), Fault(status=503)]
    with pytest.raises(NetworkError, match="incomplete upload"):
        lines("--send=VGG16")
    assert (tmp_path / "submission.csv").exists()
    assert not kaggle.submissions


def test_other_classes_are_refused(lines: Lines, project: Path, tmp_path: Path) -> None:
    """A network of other classes is not taken for one of cats and dogs."""
    card = project / "artifacts/fine_tune/model.json"
    original = card.read_text()
    try:
        card.write_text(json.dumps(json.loads(original) | {"classes": ["cat", "horse"]}))
        with pytest.raises(DataError, match=r"classes cat and dog\. Received: .* with cat, horse"):
            lines(str(archive(tmp_path / "a.zip")))
    finally:
        card.write_text(original)


def test_without_an_account_the_message_says_what_else_to_do(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials an archive can be named, and the written file can be uploaded by hand."""
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessError, match=r"API\)\. Or name the archive if you have it: `[\w -]* ARCHIVE`\.$"):
        lines()
    file = tmp_path / "submission.csv"
    with pytest.raises(AccessError, match=rf"API\)\. Or upload {file} yourself at https://.*/c/dogs-vs-cats\.$"):
        lines(str(archive(tmp_path / "a.zip")), "--send=first")
    assert file.read_text().startswith("id,label")
