"""Learn handwritten digits by an MLP and by convolutions, centred and moved at random within a larger frame."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import numpy as np
from pydantic import Field, model_validator

from baselines import digit_results, digits, mnist, networks, parameters
from baselines.digit_results import NETWORKS, TITLES, Examples, Run, Score
from baselines.digits import PLACEMENTS, DigitDataset, Digits, Images, Labels, Placement, Splits
from transfer.network import saving
from transfer.network.backend import keras
from transfer.runtime import files, params, paths
from transfer.training import fit, resume
from transfer.training.history import History
from transfer.training.settings import Params as TrainingParams

log = logging.getLogger(__name__)

STAGE = "learn_digits"
BATCH_SIZE = 250  # of predictions

NetworkT = TypeVar("NetworkT", networks.Dense, networks.Pooled)
Seed = Annotated[int, Field(ge=0)]


class Learner(params.Section, Generic[NetworkT]):
    """The settings of one network and of its training."""

    network: NetworkT
    training: TrainingParams


class Settings(params.Section):
    """The settings of a set of digits."""

    frame: int = Field(ge=mnist.EDGE, le=96, description="edge of the frame in which a digit stands, pixels")
    validation: float = Field(gt=0, lt=1, description="fraction of the digits that are not for testing")
    seeds: list[Seed] = Field(
        min_length=2, max_length=100, description="each of a division, of places, and of training runs"
    )
    mlp: Learner[networks.Dense]
    cnn: Learner[networks.Pooled]

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Settings":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must differ, or the interval is too narrow. Received: {self.seeds}")
        return self


class UndividedSettings(Settings):
    """The settings of scikit-learn's digits, which are divided into all three splits."""

    frame: int = Field(ge=digits.SCIKIT_LEARN_EDGE, le=96, description=Settings.model_fields["frame"].description)
    test: float = Field(gt=0, lt=1, description="fraction of the digits")


class Params(params.Section):
    """The settings of both sets of digits and of the scores."""

    confidence: float = Field(gt=0, lt=1, description="of the intervals")
    scikit_learn: UndividedSettings
    mnist: Settings | None = Field(description="null leaves MNIST out")


class DigitSet(NamedTuple):
    """A set of digits to learn: its name in the parameters, its settings, its splits by seed, and its SHA-256s."""

    name: str
    settings: Settings
    splits: Callable[[int], Splits]
    inputs: dict[str, str]


def digit_sets(settings: Params) -> Iterator[DigitSet]:
    """Yield scikit-learn's digits, then MNIST if it is wanted and to be had; if it is not, log a sentence."""
    small, own = digits.scikit_learn(), settings.scikit_learn
    yield DigitSet("scikit_learn", own, partial(_three_splits, small, own), {"digits": small.sha256()})
    if settings.mnist is None:
        return
    log.info("%s: Keras reads MNIST, or downloads its 11 MB.", STAGE)
    try:
        train, test = mnist.load()
    except mnist.UnavailableError as error:
        log.info(
            "%s: MNIST is left out, because Keras could not provide it: %s. "
            "Once it can, run `dvc repro --force --single-item baselines/dvc.yaml:%s`.",
            *(STAGE, error, STAGE),
        )
        return
    inputs = {"train": train.sha256(), "test": test.sha256()}
    yield DigitSet("mnist", settings.mnist, partial(_two_splits, train, test, settings.mnist), inputs)


def _three_splits(all_digits: Digits, settings: UndividedSettings, seed: int) -> Splits:
    rest, test = digits.divide(all_digits, fraction=settings.test, seed=seed, purpose="test")
    return _two_splits(rest, test, settings, seed)


def _two_splits(rest: Digits, test: Digits, settings: Settings, seed: int) -> Splits:
    train, validation = digits.divide(rest, fraction=settings.validation, seed=seed, purpose="validation")
    return Splits(train, validation, test)


def learn(digit_set: DigitSet, *, scratch: Path) -> Iterator[Run]:
    """Train every network on centred and on moved digits with every seed, and let it classify the test digits.

    Args:
        digit_set: the digits.
        scratch: folder of the states to resume from.
    """
    for seed in digit_set.settings.seeds:
        splits = digit_set.splits(seed)
        test = {tested: _placed(digit_set, splits, "test", tested, seed) for tested in PLACEMENTS}
        for trained in PLACEMENTS:
            train, validation = (_placed(digit_set, splits, split, trained, seed) for split in ("train", "validation"))
            for name in NETWORKS:
                folder = scratch / f"{name}-{trained}-{seed}"
                network, history = fit_network(digit_set, name, train, validation, seed=seed, scratch=folder)
                answers = {tested: _answers(network, shown.images) for tested, shown in test.items()}
                weights, labels = network.count_params(), splits.test.labels
                run = Run(digit_set.name, name, trained, seed, weights, len(history), answers, labels)
                log.info("%s: %s.", STAGE, digit_results.sentence(run))
                yield run


def fit_network(
    digit_set: DigitSet, name: str, train: Digits, validation: Digits, *, seed: int, scratch: Path
) -> tuple[keras.Model, History]:
    """Build and train a network, or resume its training; see `fit.fit`.

    Args:
        digit_set: the set with the settings of the network.
        name: name of the network.
        train: digits in their frames, to learn from.
        validation: digits in their frames, to choose an epoch by.
        seed: of initial weights and order.
        scratch: folder of the state to resume from.

    Returns:
        The network with the weights of its best epoch, and its history.
    """
    learner: Learner[Any] = getattr(digit_set.settings, name)
    training = learner.training
    batches = DigitDataset(train, batch_size=training.batch_size, seed=seed)
    network = networks.build(
        learner.network, image_size=digit_set.settings.frame, classes=digits.CLASSES, seed=seed, channels=1
    )
    counts = np.bincount(train.labels, minlength=digits.CLASSES).clip(1).tolist()
    fit.compile_model(network, training, batches=len(batches), counts=counts)
    network.jit_compile = False  # as in `train`
    history = fit.fit(
        network,
        batches,
        DigitDataset(validation, batch_size=BATCH_SIZE),
        settings=training,
        seed=seed,
        scratch=scratch,
        name=f"{STAGE}.{digit_set.name}.{name}",
    )
    return network, history


def examples(digit_set: DigitSet, runs: Sequence[Run]) -> list[Examples]:
    """Return a row for each condition: the first test digit of each class with the first seed's answers."""
    seed = digit_set.settings.seeds[0]
    splits = digit_set.splits(seed)
    numbers = digit_results.one_of_each(splits.test.labels)
    rows = []
    for (trained, tested), words in digit_results.CONDITIONS.items():
        images, labels = _placed(digit_set, splits, "test", tested, seed)
        answers = {
            NETWORKS[run.network]: run.answers[tested][numbers]
            for run in runs
            if (run.seed, run.trained) == (seed, trained)
        }
        heading = [TITLES[digit_set.name], *words.replace("and ", "and\n").split(", ")]
        rows.append(Examples(heading, images[numbers], labels[numbers], answers))
    return rows


def _placed(digit_set: DigitSet, splits: Splits, split: str, placement: Placement, seed: int) -> Digits:
    images, labels = getattr(splits, split)
    return Digits(digits.place(images, placement, frame=digit_set.settings.frame, seed=seed, purpose=split), labels)


def _answers(network: keras.Model, images: Images) -> Labels:
    """Return the most probable digit for each image."""
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
    answers: Labels = np.concatenate([saving.predict(network, batch).argmax(axis=1) for batch in batches])
    return answers


def main() -> None:
    """Write artifacts/baselines/learn_digits/: metrics.json, table.md and figure.png."""
    settings = parameters.load(STAGE, Params)
    runs: list[Run] = []
    rows: list[Examples] = []
    for digit_set in digit_sets(settings):
        scratch = resume.scratch_folder(STAGE, digit_set.settings.model_dump(), digit_set.inputs, entry=Path(__file__))
        learned = list(learn(digit_set, scratch=scratch))
        runs, rows = [*runs, *learned], [*rows, *examples(digit_set, learned)]
    _write(digit_results.summarize(runs, confidence=settings.confidence), rows)
    resume.discard(scratch)


def _write(scores: Sequence[Score], rows: Sequence[Examples]) -> None:
    folder = paths.artifact("baselines", STAGE)
    files.write_json(folder / "metrics.json", [score._asdict() for score in scores])
    files.write_text(folder / "table.md", digit_results.table(scores))
    with files.atomic_write(folder / "figure.png") as temporary:
        digit_results.draw(rows).save(temporary, format="PNG")
    log.info("Table:  %s\nFigure: %s", *map(paths.displayed, (folder / "table.md", folder / "figure.png")))
