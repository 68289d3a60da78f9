"""Accuracy and log loss of exported networks on all photographs of the test split, beside those of the network itself.

It reads the artifacts in the current folder, in which `evaluate` and `export` with formats have run, and changes no
file.
"""

import argparse
import csv
import time

import numpy as np

from tasks.export import MODELS, read_photographs
from transfer.evaluation import exports, scores
from transfer.evaluation.scores import Labels, Probabilities
from transfer.images import manifest
from transfer.images.decoding import Pixels
from transfer.network import litert, onnx_model
from transfer.network.card import EXPORTED_FILES, FILE_NAME, ExportFormat, read_card
from transfer.runtime import paths
from transfer.runtime.errors import rerun_hint

LEAST = 1 / 256  # the step of probabilities with 8-bit integers


def evaluated(tests: list[manifest.Entry], classes: list[str]) -> Probabilities:
    """Return what `evaluate` has predicted with the network itself, shape (photographs, classes)."""
    with paths.artifact("evaluate", "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    return np.array([[float(rows[test.path][f"fine_tune_probability_{name}"]) for name in classes] for test in tests])


def describe(name: str, received: Probabilities, expected: Probabilities, labels: Labels) -> str:
    """Return a line with the scores of a network, and how many predictions differ from those of the network itself."""
    correct = received.argmax(axis=1) == labels
    plain, clipped = (
        -np.log(np.clip(received, least, 1 - least)[np.arange(len(labels)), labels]).mean()
        for least in (scores.EPSILON, LEAST)
    )
    changed = (received.argmax(axis=1) != expected.argmax(axis=1)).sum()
    return (
        f"{name}: {correct.sum()} of {len(labels)} correct, log loss {plain:.4f}, clipped by 1/256 {clipped:.4f}; "
        f"{changed} predictions of another class than the network's"
    )


def predict(form: ExportFormat, photographs: list[Pixels]) -> tuple[Probabilities, float]:
    """Predict photographs in the runtime of a format; return the probabilities and photographs per second."""
    content = paths.artifact("export", MODELS, EXPORTED_FILES[form]).read_bytes()
    function = onnx_model.function(content) if form == "onnx" else litert.function(content)
    start = time.monotonic()
    received = exports.predict(function, photographs, name=form)
    return received, len(photographs) / (time.monotonic() - start)


def main(forms: list[ExportFormat]) -> None:
    """Print the scores of the network itself and of each format."""
    card = read_card(paths.artifact("export", MODELS, FILE_NAME), hint=rerun_hint("export"))
    entries = manifest.read(paths.artifact("split", "manifest.csv"))
    photographs = read_photographs(entries, "test", len(entries), card)
    tests = sorted((entry for entry in entries if entry.split == "test"), key=lambda entry: entry.sha256)
    labels = np.array([card.classes.index(entry.class_name) for entry in tests])
    expected = evaluated(tests, card.classes)
    print(describe("model.keras", expected, expected, labels), flush=True)
    for form in forms:
        received, rate = predict(form, photographs)
        line = describe(form, received, expected, labels)
        print(f"{line}; {rate:.2f} photographs per second, one at a time", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exports", description="Score exported networks on the test split."
    )
    parser.add_argument("formats", nargs="+", choices=EXPORTED_FILES, help="of the exported networks")
    main(parser.parse_args().formats)
