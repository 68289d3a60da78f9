"""Seconds, memory and disk of every stage with 500 to 25,000 photographs, and with 10 % more of them afterwards.

The photographs have the size of Kaggle's, 500 x 375 pixels: drawings of cats and dogs, each moved and coloured in many
ways, so that drawing takes little time; an archive has 2 % more of them, as a few are near duplicates. The weights are
random. The network computes `--image-size` pixels without views and trains few epochs: its part of a run is linear in
the rows and measured by `benchmarks.extraction` and `benchmarks.fine_tuning`.

A stage runs as `python -m tasks`, and DVC then hashes and caches its outputs as `dvc repro` does, so that the seconds
of both are known. A stage's memory is at least that of this process, some 150 MB. Every number of photographs has a
workspace of its own, below TMPDIR.
"""

import argparse
import io
import itertools
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tabulate import tabulate

from benchmarks.pipeline import run, set_params
from flows import demo, graph
from transfer.sources import synthetic

ROOT = Path(__file__).parent.parent
COUNTS = (500, 2000, 8000, 25_000)
WIDTH, HEIGHT = 500, 375
CLASSES = ("cat", "dog")
VARIANTS = 50  # of a drawing
QUALITY = 85  # of JPEG; files of 40 to 70 KB


class Cost(NamedTuple):
    """What a stage takes: its seconds, those of DVC after it, and its peak memory in megabytes."""

    seconds: float
    dvc: float
    memory: float


def photographs_of(number: int) -> list[bytes]:
    """Return the variants of a drawing of each class as JPEG files; the classes take turns."""
    drawings = []
    for class_name in CLASSES:
        picture = Image.open(io.BytesIO(synthetic.draw(class_name, number, size=WIDTH, seed=0)))
        drawings.append(np.asarray(picture)[(WIDTH - HEIGHT) // 2 :][:HEIGHT])
    return [
        _encode(_variant(pixels, np.random.default_rng([number, variant, place])))
        for variant in range(VARIANTS)
        for place, pixels in enumerate(drawings)
    ]


def _variant(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    moved = np.roll(pixels, (random.integers(HEIGHT), random.integers(WIDTH)), axis=(0, 1))
    turned = moved[:, ::-1] if random.random() < 0.5 else moved
    return (turned[..., random.permutation(3)] * random.uniform(0.6, 1.0, 3)).astype(np.uint8)


def _encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_archives(files: dict[Path, int]) -> None:
    """Write archives with the first photographs, as many as each is to have."""
    with ExitStack() as opened, ProcessPoolExecutor() as pool:
        archives = {opened.enter_context(zipfile.ZipFile(file, "w")): count for file, count in files.items()}
        drawings = range(-(-max(files.values()) // (VARIANTS * len(CLASSES))))
        photographs = itertools.chain.from_iterable(pool.map(photographs_of, drawings))
        for number, photograph in enumerate(itertools.islice(photographs, max(files.values()))):
            class_name = CLASSES[number % len(CLASSES)]
            for archive, count in archives.items():
                if number < count:
                    archive.writestr(f"{class_name}/{number}.jpg", photograph)


def run_stages(workspace: Path, archive: Path, count: int) -> dict[str, Cost]:
    """Run all stages on the photographs of an archive, and return the costs of each."""
    (workspace / "inbox").mkdir(exist_ok=True)
    archive.replace(workspace / "inbox/photographs.zip")
    set_params(workspace, {"subsample": {"photographs": count}})
    costs = {}
    for stage in graph.declared():
        seconds, memory = run(workspace, "tasks", stage)
        costs[stage] = Cost(seconds, run(workspace, "dvc", "commit", "--force", stage)[0], memory)
    return costs


def disk_usage(folder: Path) -> int:
    """Return the bytes of the files in a folder; hard links to one file count once."""
    found = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum({status.st_ino: status.st_size for status in found}.values())


def measure(folder: Path, count: int, image_size: int) -> None:
    """Measure a number of photographs and 10 % more, and print the costs."""
    more = count + count // 10
    archives = {folder / "first.zip": round(1.02 * count), folder / "more.zip": round(1.02 * more)}
    start = time.monotonic()
    write_archives(archives)
    size = (folder / "first.zip").stat().st_size / archives[folder / "first.zip"] / 1e3
    print(f"\n{count:,} photographs of {size:.0f} KB, drawn in {time.monotonic() - start:.0f} s", flush=True)
    workspace = folder / "workspace"
    demo.prepare(ROOT, workspace)
    features = {"image_size": image_size, "views": 0, "precision": "auto"}
    training = {stage: {"training": {"epochs": 2}} for stage in ("train_head", "fine_tune")}
    set_params(workspace, {"download": {"source": "inbox"}, "extract_features": features, **training})
    first = run_stages(workspace, folder / "first.zip", count)
    used = disk_usage(workspace) - (workspace / "inbox/photographs.zip").stat().st_size
    second = run_stages(workspace, folder / "more.zip", more)
    unchanged, _ = run(workspace, "dvc", "repro")
    print_costs(first, second)
    total, share = (sum(cost.seconds + cost.dvc for cost in costs.values()) for costs in (first, second))
    of_dvc = sum(cost.dvc for cost in first.values()) / total
    print(f"{1000 * total / count:.1f} ms a photograph, DVC {of_dvc:.1%} of it; {used / 1e9:.2f} GB of disk")
    print(f"10 % more photographs: {share / total:.1%} of the first run; nothing to do: {unchanged:.1f} s", flush=True)


def print_costs(first: dict[str, Cost], second: dict[str, Cost]) -> None:
    """Print a table of the stages' costs: with the first photographs, and with 10 % more of them."""
    rows = [[stage, *first[stage], second[stage].seconds, second[stage].dvc] for stage in first]
    rows.append(["all", *(sum(row[column] for row in rows) for column in (1, 2)), "", *(_sums(rows))])
    headers = ["stage", "seconds", "DVC", "memory, MB", "10 % more: seconds", "DVC"]
    print(tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".0f", ".1f", ".1f"), tablefmt="github"))


def _sums(rows: Sequence[Sequence[float]]) -> Iterator[float]:
    return (sum(row[column] for row in rows) for column in (4, 5))


def main(counts: Sequence[int], image_size: int) -> None:
    """Measure each number of photographs."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), count, image_size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Measure larger and larger runs.")
    parser.add_argument("--photographs", type=int, nargs="+", default=COUNTS, help="numbers of photographs")
    parser.add_argument("--image-size", type=int, default=96, help="pixels per edge that the network computes")
    options = parser.parse_args()
    main(options.photographs, options.image_size)
