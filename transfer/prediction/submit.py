"""Submit: predict the test photographs of a competition, write them as Kaggle wants them, and send them if asked to."""

import argparse
import hashlib
import logging
import zipfile
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.images import decoding, manifest
from transfer.network.card import Card
from transfer.prediction import answers, model_file, submission, versions
from transfer.prediction.formats import printable
from transfer.prediction.inputs import LIMITS, InputPhotograph
from transfer.prediction.resumption import Predictions
from transfer.runtime import files, paths, stage
from transfer.runtime.errors import DataError
from transfer.sources import archives, competition, kaggle

log = logging.getLogger(__name__)

FOLDER = "submit"  # in the cache
POSITIVE, NEGATIVE = "dog", "cat"  # of the labels 1 and 0
_NAMED = 20  # photographs in a message


def main(argv: Sequence[str] | None = None) -> None:
    """Write a submission for the photographs of a competition's archive, and send it if the command line says so.

    Raises:
        DataError: the network is none of cats and dogs, the archive is not the competition's, photographs cannot be
            read, those of the validation split are missing, or Kaggle refused the submission.
        AccessError: Kaggle requires credentials, or its rules to be accepted.
        NetworkError: Kaggle did not answer.
    """
    options = _parser().parse_args(argv)
    project = versions.project()
    model = versions.select(project, options.model)
    card = model_file.check(model.file)
    _check_classes(card, model.file)
    log.info("Model: %s.", model.description)
    cache = project / paths.cache(FOLDER)
    predictions = Predictions(cache / f"{card.sha256}.jsonl", _named_as(POSITIVE, card))
    archive = options.archive or _downloaded(cache, options.competition)
    with competition.open_test_set(archive, limits=LIMITS, scratch=cache) as tests:
        probabilities = _predict_tests(tests, model.file, predictions, accept_unreadable=options.accept_unreadable)
    if options.competition == competition.LABELS:
        content = submission.as_labels(tests.sample, probabilities)
    else:
        bound = _best_bound(project, model.file, card, predictions) if options.clip is None else options.clip
        content = submission.as_probabilities(tests.sample, probabilities, bound=bound)
    files.write_text(options.output, content)
    log.info("%s: %s photographs for %s.", options.output, f"{len(probabilities):,}", options.competition)
    if options.send is not None:
        log.info("Kaggle: %s", kaggle.submit(options.output, options.send, competition=options.competition))


def _named_as(name: str, card: Card) -> str:
    """Return a class of a network by its name in lower case; an empty text if there is none."""
    return next((class_name for class_name in card.classes if class_name.lower() == name), "")


def _check_classes(card: Card, file: Path) -> None:
    if len(card.classes) != 2 or not (_named_as(POSITIVE, card) and _named_as(NEGATIVE, card)):
        raise DataError(
            f"The competition needs a network with the classes {NEGATIVE} and {POSITIVE}. Received: {file} with "
            f"{', '.join(map(printable, card.classes))}. Name another one with `--model`."
        )


def _downloaded(cache: Path, name: str) -> Path:
    archive = cache / f"{name}.zip"
    hint = "Or name the archive if you have it: `dogs-vs-cats submit ARCHIVE`."
    kaggle.download(archive, competition=name, hint=hint)
    return archive


def _predict_tests(
    tests: competition.TestSet, model: Path, predictions: Predictions, *, accept_unreadable: bool
) -> dict[str, float]:
    """Return the probability of `POSITIVE` for each test photograph by its id.

    Raises:
        DataError: photographs cannot be read, and this is not accepted; the others are kept.
    """
    members = {f"{id_} {member.CRC:08x}": member for id_, member in tests.photographs.items()}
    ids = dict(zip(members, tests.photographs, strict=True))
    photographs = {
        name: InputPhotograph(member.filename, partial(_read_member, tests, member)) for name, member in members.items()
    }
    unreadable = predictions.complete(photographs, partial(_predict, model), task=FOLDER)
    for name, reason in list(unreadable.items())[:_NAMED]:
        log.warning("%s: %s", printable(members[name].filename), printable(reason))
    if unreadable:
        received = f"{len(unreadable):,} of {len(members):,} test photographs could not be read"
        if not accept_unreadable:
            raise DataError(
                f"{received}; the first {_NAMED} are above. With `--accept-unreadable` they get the probability "
                f"{submission.UNKNOWN}, or the label 0."
            )
        log.warning("%s, and get the probability %s, or the label 0.", received, submission.UNKNOWN)
    return {ids[name]: predictions.values.get(name, submission.UNKNOWN) for name in members}


def _read_member(tests: competition.TestSet, member: zipfile.ZipInfo) -> bytes:
    return archives.read_member(tests.archive, member, most=decoding.MAX_BYTES)


def _predict(model: Path, photographs: Sequence[InputPhotograph]) -> Generator[Sequence[answers.Answer], None, None]:
    from transfer.features import extraction  # noqa: PLC0415 - it imports TensorFlow, which takes seconds
    from transfer.prediction.model import load  # noqa: PLC0415 - so does this one

    with suppress(RuntimeError):  # if this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    return answers.in_batches(load(model, always=True), photographs)


def _best_bound(project: Path, model: Path, card: Card, predictions: Predictions) -> float:
    """Return the bound for the smallest expected log loss, from predictions of the network's validation photographs.

    Raises:
        DataError: they are not here, or a photograph is damaged.
    """
    entries = _validation(project, model, card)
    photographs = {
        entry.sha256: InputPhotograph(entry.path, partial(_read_photograph, project, entry)) for entry in entries
    }
    unreadable = predictions.complete(photographs, partial(_predict, model), task="validation")
    if unreadable:
        name = next(iter(unreadable))
        raise DataError(
            f"The validation photographs must be readable. Received: {photographs[name].name}, {unreadable[name]}. "
            "Run `dvc repro subsample`, or choose a bound with `--clip`, such as 0.01."
        )
    positive = np.array([predictions.values[entry.sha256] for entry in entries])
    is_positive = np.array([entry.class_name.lower() == POSITIVE for entry in entries])
    return _reported_bound(np.where(is_positive, positive, 1 - positive))


def _reported_bound(probabilities: NDArray[np.float64]) -> float:
    bound = submission.best_bound(probabilities)
    before, after = (submission.log_loss(probabilities, bound=each) for each in (0, bound))
    log.info(
        "Clipped to %.4f from 0 and 1, the best for %d validation photographs and one wrong prediction more; "
        "their log loss is %.4f, and %.4f without clipping.",
        *(bound, len(probabilities), after, before),
    )
    return bound


def _validation(project: Path, model: Path, card: Card) -> list[manifest.Entry]:
    """Return the validation photographs of the split that a network was trained on."""
    places = (model.with_name("manifest.csv"), project / paths.artifact("split", "manifest.csv"))
    for place in places:
        if place.exists() and files.sha256(place) == card.trained_on.get("photographs"):
            return [entry for entry in manifest.read(place) if entry.split == "validation"]
    raise DataError(
        f"The validation photographs of {model} must be here to choose the bound of probabilities. Received: another "
        "split, or none. Choose a bound with `--clip`, such as 0.01."
    )


def _read_photograph(project: Path, entry: manifest.Entry) -> bytes:
    data = (project / paths.artifact("subsample", entry.path)).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DataError("another SHA-256 than the manifest lists")
    return data


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = -1
    if not 0 <= bound < 0.5:
        raise argparse.ArgumentTypeError(f"must be from 0 to below 0.5. Received: {text}")
    return bound


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transfer.prediction.submit",
        description="Predict the test photographs of a competition, and write the predictions as Kaggle wants them.",
    )
    parser.add_argument(
        "archive", nargs="?", type=Path, metavar="ARCHIVE", help="of the competition; it is downloaded if none is named"
    )
    parser.add_argument(
        "--competition",
        choices=competition.NAMES,
        default=competition.LABELS,
        help="the first one, which wants labels and is the default, or the later one, which wants probabilities",
    )
    parser.add_argument("--model", metavar="FILE", help="as of `predict`")
    parser.add_argument(
        "--output", type=Path, default=Path("submission.csv"), metavar="FILE", help="the default is submission.csv"
    )
    parser.add_argument(
        "--clip",
        type=_bound,
        metavar="BOUND",
        help="the least distance of probabilities from 0 and 1; by default the best one for the validation photographs",
    )
    parser.add_argument(
        "--accept-unreadable", action="store_true", help="give photographs that cannot be read the probability 0.5"
    )
    parser.add_argument("--send", metavar="MESSAGE", help="send the file to Kaggle, with this description")
    return parser


if __name__ == "__main__":
    stage.run(main)
