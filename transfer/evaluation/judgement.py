"""Judgement: score a candidate and the champion on the workspace's test split, and decide by `promotion_rule.decide`.

`python -m transfer.evaluation.judgement CANDIDATE [--champion FOLDER] --verdict FILE` does that as a process. The
folder of a network has `model.keras`, `model.json` and `manifest.csv`, the photographs it was trained on.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transfer.evaluation import promotion_rule
from transfer.evaluation.promotion_rule import Verdict
from transfer.evaluation.scores import Labels, Probabilities
from transfer.images import decoding, manifest
from transfer.network import saving
from transfer.network.card import Card, verified_card
from transfer.runtime import files, params, paths, progress, stage
from transfer.runtime.errors import DataError

NETWORK, MANIFEST = "model.keras", "manifest.csv"
_BATCH = 8  # photographs predicted at once; more are no faster on a CPU
_HINT = "Train the model again and save the run, or roll back to another version."


class TestSplit(NamedTuple):
    """The test photographs of the workspace, by path, the class names, and a digest of photographs and classes."""

    photographs: list[manifest.Entry]
    classes: list[str]
    digest: str

    @property
    def labels(self) -> Labels:
        """The class numbers of the photographs."""
        return np.array([self.classes.index(photograph.class_name) for photograph in self.photographs])


def read_test_split(file: Path) -> TestSplit:
    """Read the test split of a manifest.

    Raises:
        DataError: the manifest is damaged, or has no test photographs.
    """
    entries = manifest.read(file)
    photographs = sorted((entry for entry in entries if entry.split == "test"), key=lambda entry: entry.path)
    if not photographs:
        raise DataError(f"{file} must have test photographs. Received: none. Run `dvc repro split`.")
    content = "\n".join(sorted(f"{photograph.sha256} {photograph.class_name}" for photograph in photographs))
    return TestSplit(photographs, manifest.classes(entries), hashlib.sha256(content.encode()).hexdigest())


def judge(candidate: Path, champion: Path | None, test: TestSplit, settings: promotion_rule.Params) -> Verdict:
    """Decide whether a candidate is promoted; it is refused unscored if the scores would mean nothing.

    Args:
        candidate: the folder of its files.
        champion: that of the network in production; None if there is none.
        test: the photographs to score both on.
        settings: the section `promote` of params.yaml.

    Raises:
        DataError: a file is damaged, or a photograph is not that of the manifest.
    """
    folders = {"candidate": candidate} | ({"champion": champion} if champion else {})
    cards = {role: verified_card(folder / NETWORK, hint=_HINT) for role, folder in folders.items()}
    for role, folder in folders.items():
        if obstacle := _obstacle(role, cards[role], training_photographs(folder, cards[role]), test):
            return Verdict(promoted=False, reason=obstacle)
    predicted = {role: predict(folders[role] / NETWORK, card, test, description=role) for role, card in cards.items()}
    return promotion_rule.decide(test.labels, predicted["candidate"], predicted.get("champion"), settings)


def _obstacle(role: str, card: Card, seen: frozenset[str], test: TestSplit) -> str:
    """Return why a network cannot be scored on these photographs, and what to do; empty if it can."""
    if card.classes != test.classes:
        return (
            f"The {role} must know the classes of the test split, {', '.join(test.classes)}. "
            f"Received: {', '.join(card.classes)}. Restore the photographs of these classes, and run again."
        )
    shared = sum(photograph.sha256 in seen for photograph in test.photographs)
    if shared:
        return (
            f"The {role} must not have been trained on test photographs. Received: {shared} of "
            f"{len(test.photographs)}. Restore the values of `split.seed`, `split.test` and `split.validation` that it "
            "was trained with, and run again."
        )
    return ""


def training_photographs(folder: Path, card: Card) -> frozenset[str]:
    """Return the SHA-256 of each photograph that a network was trained or selected with, from its manifest.

    Raises:
        DataError: the manifest is damaged, or not the one that the card names.
    """
    file = folder / MANIFEST
    expected, received = str(card.trained_on.get("photographs")), files.sha256(file)
    if received != expected:
        raise DataError(
            f"{file} must be the manifest that the network was trained on, whose sha256 begins with {expected[:12]}. "
            f"Received: {received[:12]}. {_HINT}"
        )
    return frozenset(entry.sha256 for entry in manifest.read(file) if entry.split != "test")


def predict(file: Path, card: Card, test: TestSplit, *, description: str) -> Probabilities:
    """Predict the test photographs from their files, as a user of the network would.

    Args:
        file: the network.
        card: its card, with the size and the resizing of photographs.
        test: the photographs, in `artifacts/subsample/`.
        description: text of the progress bar.

    Returns:
        Array of shape (photographs, classes).
    """
    network = saving.load(file)
    with progress.bar(total=len(test.photographs), description=description, unit="photographs") as bar:
        predicted = []
        for batch in _batches(test.photographs, card):
            predicted.append(saving.predict(network, batch))
            bar.update(len(batch))
    return np.concatenate(predicted)


def _batches(photographs: Sequence[manifest.Entry], card: Card) -> Iterator[decoding.Pixels]:
    folder = paths.artifact("subsample")
    for start in range(0, len(photographs), _BATCH):
        pictures = [
            decoding.read_square(folder, photograph, size=card.image_size, resizing=card.resizing)
            for photograph in photographs[start : start + _BATCH]
        ]
        yield np.stack(pictures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge the networks that the command line names, and write the verdict with the test split's digest and size."""
    parser = argparse.ArgumentParser(
        prog="python -m transfer.evaluation.judgement", description="Decide whether a network replaces another one."
    )
    parser.add_argument("candidate", type=Path, metavar="CANDIDATE", help="the folder of a network")
    parser.add_argument("--champion", type=Path, metavar="FOLDER", help="that of the network in production")
    parser.add_argument("--verdict", type=Path, metavar="FILE", required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    settings = params.load(promotion_rule.SECTION, promotion_rule.Params)
    test = read_test_split(paths.artifact("split", "manifest.csv"))
    verdict = judge(options.candidate, options.champion, test, settings)
    content = {**verdict._asdict(), "test_split": test.digest, "test_photographs": len(test.photographs)}
    files.write_json(options.verdict, content)


if __name__ == "__main__":
    stage.run(main)
