import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from baselines import learn_digits, mnist, parameters
from baselines.digit_results import CONDITIONS
from baselines.digits import Digits
from flows import sandbox
from tests.baselines.conftest import ROOT, run
from transfer.runtime.errors import ParamsError

OUTPUTS = Path("artifacts/baselines/learn_digits")
TRAINING = {"epochs": 2, "batch_size": 256}
SMALL: dict[str, Any] = {
    "frame": 12,
    "seeds": [0, 1],
    "mlp": {"network": {"hidden": [8]}, "training": TRAINING},
    "cnn": {"network": {"filters": [4, 4], "pooling": True, "dense": 4}, "training": TRAINING},
}


class PowerCut(Exception):
    """Ends a stage like `kill -9`: no code after it runs."""


def write_params(folder: Path, **changes: Any) -> None:
    """Write a baselines/params.yaml with small networks for scikit-learn's digits, without MNIST, and with changes."""
    params = YAML().load(ROOT / "baselines/params.yaml")
    for section in ({"scikit_learn": SMALL}, {"mnist": None, **changes}):
        params = sandbox.merged(params, {"learn_digits": section})
    (folder / "baselines").mkdir(exist_ok=True)
    YAML().dump(params, folder / "baselines/params.yaml")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parameters for a small run; it is the current folder."""
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a small run."""
    folder = tmp_path_factory.mktemp("learned")
    write_params(folder)
    with contextlib.chdir(folder):
        run("learn_digits")
    assert not list((folder / ".cache/training").glob("*"))
    return folder / OUTPUTS


def test_every_network_is_tested_on_centred_and_on_moved_digits(learned: Path) -> None:
    """metrics.json and the table have both networks in every condition, with the accuracy of each seed."""
    scores = json.loads((learned / "metrics.json").read_text())
    assert [(score["network"], score["trained"], score["tested"]) for score in scores] == [
        (network, *condition) for network in ("mlp", "cnn") for condition in CONDITIONS
    ]
    assert {score["weights"] for score in scores} == {
        12 * 12 * 8 + 8 + 8 * 10 + 10,
        9 * 4 + 4 + 9 * 4 * 4 + 4 + 4 * 4 + 4 + 4 * 10 + 10,
    }
    for score in scores:
        assert len(score["by_seed"]) == 2
        assert score["accuracy"] == pytest.approx(np.mean(score["by_seed"]))
        assert score["low"] <= score["accuracy"] <= score["high"]
        assert f"{100 * score['accuracy']:.1f} % (" in (learned / "table.md").read_text()


def test_the_figure_shows_a_digit_of_each_class(learned: Path) -> None:
    """The figure has a row for each condition, and ten columns."""
    with Image.open(learned / "figure.png") as figure:
        assert figure.width > 10 * 96
        assert figure.height > len(CONDITIONS) * 96


@pytest.mark.reliability(
    "killed", "the baselines while they learn digits", "complete epochs are kept; the same bytes in the end"
)
def test_a_killed_stage_resumes_to_the_same_bytes(
    learned: Path, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed after three training runs, the stage trains none of them again, and gives the same files."""
    answers, calls = learn_digits._answers, 0

    def fail_after_three_runs(network: Any, images: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise PowerCut
        return answers(network, images)

    monkeypatch.setattr(learn_digits, "_answers", fail_after_three_runs)
    with pytest.raises(PowerCut):
        run("learn_digits")
    monkeypatch.setattr(learn_digits, "_answers", answers)
    with caplog.at_level("INFO"):
        run("learn_digits")
    assert caplog.text.count("goes on after epoch 2") == 3
    assert {file.name: file.read_bytes() for file in (project / OUTPUTS).iterdir()} == {
        file.name: file.read_bytes() for file in learned.iterdir()
    }


def digit_sets(folder: Path) -> list[learn_digits.DigitSet]:
    """Return the sets of digits of a project in which MNIST is wanted, too."""
    write_params(folder, mnist={**SMALL, "frame": 32, "validation": 0.25})
    return list(learn_digits.digit_sets(parameters.load("learn_digits", learn_digits.Params)))


def test_without_mnist_the_stage_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If Keras has no copy and no connection, MNIST is left out, and a sentence says why and what to run later."""

    def unavailable() -> None:
        raise mnist.UnavailableError("no connection")

    monkeypatch.setattr(mnist, "load", unavailable)
    with caplog.at_level("INFO"):
        assert [digit_set.name for digit_set in digit_sets(project)] == ["scikit_learn"]
    message = caplog.messages[-1]
    assert "MNIST is left out, because Keras could not provide it: no connection. " in message
    assert "`dvc repro --force --single-item baselines/dvc.yaml:learn_digits`" in message


def test_mnist_keeps_its_test_digits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's own test digits are the test split of every seed; the validation digits are some of the others."""
    images, labels = np.arange(20, dtype=np.uint8)[:, None, None], np.arange(20)
    monkeypatch.setattr(mnist, "load", lambda: (Digits(images, labels), Digits(images[:3], labels[:3])))
    _, digit_set = digit_sets(project)
    validations = []
    for seed in (0, 1):
        splits = digit_set.splits(seed)
        assert splits.test.labels.tolist() == [0, 1, 2]
        assert sorted([*splits.train.labels, *splits.validation.labels]) == list(range(20))
        validations.append(splits.validation.labels.tolist())
    assert len(validations[0]) == 5
    assert validations[0] != validations[1]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("scikit_learn.frame", {"scikit_learn": {"frame": 7}}),
        ("scikit_learn.seeds", {"scikit_learn": {"seeds": [0]}}),
        ("scikit_learn", {"scikit_learn": {"seeds": [3, 3]}}),
        ("mnist.frame", {"mnist": {**SMALL, "frame": 27, "validation": 0.1}}),
        ("scikit_learn.cnn.network.filters", {"scikit_learn": {"cnn": {"network": {"filters": []}}}}),
    ],
)
def test_a_wrong_parameter_is_named(project: Path, name: str, changes: dict[str, Any]) -> None:
    """A frame smaller than a digit, one seed or equal ones, and a network of nothing are refused by name."""
    write_params(project, **changes)
    with pytest.raises(ParamsError, match=rf"`learn_digits\.{name}`:? "):
        parameters.load("learn_digits", learn_digits.Params)
