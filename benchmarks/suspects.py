"""How many wrong labels stand in the first places of suspects.csv, if some are made wrong on purpose.

It reads the photographs' features in the current folder, in which `extract_features` has run, and changes no file.
"""

import argparse
import time

import numpy as np

from transfer.evaluation import linear_probe, suspects
from transfer.features.dataset import FeatureDataset
from transfer.images import manifest
from transfer.runtime import paths

SEEDS = 20
WRONG = 0.01  # fraction of the photographs that get the next class as a wrong label
LOOKED_AT = (0.01, 0.02, 0.03)  # fractions of the photographs that someone looks at, in the order of suspects.csv


def with_wrong_labels(
    photographs: list[manifest.Entry], classes: list[str], *, seed: int
) -> tuple[list[manifest.Entry], set[str]]:
    """Give some photographs the next class; return all of them, and the SHA-256s of those."""
    count = round(WRONG * len(photographs))
    wrong = set(np.random.default_rng(seed).choice(len(photographs), count, replace=False).tolist())
    following = dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    changed = [
        entry._replace(class_name=following[entry.class_name]) if number in wrong else entry
        for number, entry in enumerate(photographs)
    ]
    return changed, {photographs[number].sha256 for number in wrong}


def main() -> None:
    """Measure with several seeds, and print how many of the wrong labels are found."""
    photographs = manifest.read(paths.artifact("split", "manifest.csv"))
    classes = manifest.classes(photographs)
    folder = paths.artifact("extract_features")
    start = time.monotonic()
    batches = FeatureDataset(folder, photographs, classes=classes, part="pooled", batch_size=32)
    rows = linear_probe.read_rows(batches, description="features")
    read = time.monotonic() - start
    found: dict[float, list[float]] = {fraction: [] for fraction in LOOKED_AT}
    start = time.monotonic()
    for seed in range(SEEDS):
        changed, wrong = with_wrong_labels(photographs, classes, seed=seed)
        order = [suspect.photograph.sha256 for suspect in suspects.find(changed, rows, classes)]
        for fraction, shares in found.items():
            first = order[: round(fraction * len(photographs))]
            shares.append(len(wrong.intersection(first)) / len(wrong))
    seconds = (time.monotonic() - start) / SEEDS
    unchanged = len(suspects.find(photographs, rows, classes))
    print(
        f"{len(photographs):,} photographs, {WRONG:.0%} of the labels made wrong, {SEEDS} seeds; {unchanged} suspects "
        f"before; {read:.1f} s to read the features, {seconds:.1f} s to find the suspects"
    )
    for fraction, shares in found.items():
        print(f"in the first {fraction:.0%}: {np.mean(shares):.1%} of them ({min(shares):.0%} to {max(shares):.0%})")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.suspects", description="Measure how many of wrong labels are found."
    ).parse_args()
    main()
