"""Command: predict the classes of the photographs that a command line names, and write them to standard output."""

import argparse
import io
import itertools
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from transfer.prediction import answers, formats, heat_maps, inputs, least_certain, model_file, versions
from transfer.prediction.answers import Answer
from transfer.prediction.formats import Format, printable, text
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime import progress, signals
from transfer.runtime.errors import DataError
from transfer.runtime.stage import BROKEN_PIPE

log = logging.getLogger(__name__)


def write(
    batches: Iterable[Sequence[Answer]], output: Format, *, total: int, gallery: heat_maps.Gallery | None
) -> Counter[str]:
    """Write predictions to standard output, heat maps to files and failures to standard error, batch by batch.

    Args:
        batches: the answers in batches.
        output: the format of the predictions.
        total: the number of answers.
        gallery: the folder for heat maps, if answers have them.

    Returns:
        The number of photographs with each answer.
    """
    counts: Counter[str] = Counter()
    sys.stdout.write(output.header)
    with progress.bar(total=total, description="predict", unit="photographs") as bar:
        for batch in batches:
            with progress.paused():
                for name, result, heat_map, _ in batch:
                    if isinstance(result, str):
                        _log_failure(name, result)
                        continue
                    sys.stdout.write((output.separator if counts else "") + output.row(text(name), result))
                    counts[result.answer] += 1
                    if gallery and heat_map is not None:
                        gallery.add(name, result, heat_map)
                sys.stdout.flush()
            bar.update(len(batch))
    sys.stdout.write(output.footer)
    sys.stdout.flush()
    return counts


def write_least_certain(
    batches: Iterable[Sequence[Answer]],
    photographs: Sequence[InputPhotograph],
    output: Format,
    *,
    number: int,
    sheet: Path | None,
) -> Counter[str]:
    """Write the predictions of the photographs to label next, the most important first, and failures.

    Args:
        batches: the answers in batches, with features.
        photographs: the photographs, in the order of the answers.
        output: the format of the predictions.
        number: how many photographs to write.
        sheet: the file of their contact sheet, if it is requested.

    Returns:
        The number of photographs with each answer, written or not.
    """
    predicted: list[tuple[InputPhotograph, Answer]] = []
    waiting = iter(photographs)
    with progress.bar(total=len(photographs), description="predict", unit="photographs") as bar:
        for batch in batches:
            for photograph, answer in zip(itertools.islice(waiting, len(batch)), batch, strict=True):
                if isinstance(answer.result, str):
                    with progress.paused():
                        _log_failure(answer.name, answer.result)
                else:
                    predicted.append((photograph, answer))
            bar.update(len(batch))
    results: list[Any] = [answer.result for _, answer in predicted]
    features = np.array([answer.features for _, answer in predicted], np.float32)
    chosen = least_certain.rank(results, features, number=number) if predicted else []
    write([[predicted[index][1] for index in chosen]], output, total=len(chosen), gallery=None)
    if sheet and chosen:
        named = [predicted[index][0] for index in chosen]
        least_certain.write_sheet(sheet, named, [results[index] for index in chosen])
    return Counter(result.answer for result in results)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict the photographs that the command line names.

    Raises:
        DataError: the model cannot be used, or some photographs cannot be read; the others are predicted.
    """
    arguments = _arguments(argv)
    model = versions.select(versions.project(), arguments.model)
    card = model_file.check(model.file)
    with inputs.photographs(arguments.photographs) as (found, skipped):
        _log_unreadable(found, skipped)
        readable = [photograph for photograph in found if photograph.error is None]
        output = _output_format(arguments.format, [photograph.name for photograph in readable], card.classes)
        counts = _predict(model.file, readable, output, arguments)
    summary = ", ".join(f"{counts[answer]} {printable(answer)}" for answer in dict.fromkeys([*card.classes, *counts]))
    if model.description != arguments.model:
        log.info("Model: %s.", model.description)
    log.info("%s: %s", _counted(counts.total()), summary)
    if counts.total() < len(found):
        raise DataError(
            f"{len(found) - counts.total()} of {_counted(len(found))} could not be predicted; the reasons are above."
        )


def _log_unreadable(found: Iterable[InputPhotograph], skipped: Counter[str]) -> None:
    """Log the files that will not be predicted, as far as this is known without reading them."""
    if skipped:
        log.info("Skipped: %s.", printable(inputs.skipped_text(skipped)))
    for photograph in found:
        if photograph.error is not None:
            _log_failure(photograph.name, answers.reason(photograph.error))


def _predict(
    model: Path, photographs: Sequence[InputPhotograph], output: Format, options: argparse.Namespace
) -> Counter[str]:
    """Load the model and write the predictions; without photographs TensorFlow is not imported."""
    if not photographs:
        return write([], output, total=0, gallery=None)
    from transfer.features import extraction  # noqa: PLC0415 - importing TensorFlow takes seconds
    from transfer.prediction.model import load  # noqa: PLC0415 - likewise

    with suppress(RuntimeError):  # if this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    loaded = load(model, always=options.answer == "always")
    if options.least_certain:
        with closing(answers.in_batches(loaded, photographs, features=True)) as batches:
            number, sheet = options.least_certain, options.sheet
            return write_least_certain(batches, photographs, output, number=number, sheet=sheet)
    names = [photograph.name for photograph in photographs]
    with (
        heat_maps.gallery(options.heatmaps, names) if options.heatmaps else nullcontext() as gallery,
        closing(answers.in_batches(loaded, photographs, heat_maps=options.heatmaps is not None)) as batches,
    ):
        return write(batches, output, total=len(names), gallery=gallery)


def _log_failure(name: str, reason: str) -> None:
    log.warning("%s: %s", printable(name), printable(reason))


def _counted(photographs: int) -> str:
    return f"{photographs} photograph{'' if photographs == 1 else 's'}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and end the process if options contradict each other."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.sheet and not arguments.least_certain:
        parser.error("--sheet needs --least-certain")
    if arguments.least_certain and arguments.heatmaps:
        parser.error("--least-certain and --heatmaps exclude each other")
    if arguments.least_certain and inputs.STANDARD_INPUT in arguments.photographs:
        parser.error("--least-certain needs files, folders or archives, as it reads photographs twice")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transfer.prediction", description="Predict the classes of photographs."
    )
    parser.add_argument(
        "photographs",
        nargs="+",
        metavar="PHOTOGRAPH",
        help="a file, a folder, a pattern in quotes, a zip archive, or - for one photograph on standard input",
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        help="of the predictions; the default is table in a terminal, csv elsewhere",
    )
    _add_network(parser)
    parser.add_argument(
        "--heatmaps",
        type=heat_maps.folder,
        metavar="FOLDER",
        help="write a heat map of each photograph, which shows the regions that support its class, and an index.html",
    )
    _add_least_certain(parser)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="a network with its model.json in the same folder, or a version such as v2.0.0; by default the version in "
        "production, or the newest network if none is",
    )
    parser.add_argument(
        "--answer",
        choices=("auto", "always"),
        default="auto",
        help="auto: `not sure` or `none of these` instead of a class, if the network has thresholds; always: a class",
    )


def _add_least_certain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--least-certain",
        type=least_certain.count,
        metavar="N",
        help="write only the N photographs to label next, the most important first: those that the network is "
        "least certain of, and that differ from each other",
    )
    parser.add_argument(
        "--sheet",
        type=least_certain.sheet_file,
        metavar="FILE",
        help="with --least-certain: write these photographs with their names to a JPEG",
    )


def _output_format(name: str | None, names: Sequence[str], classes: Sequence[str]) -> Format:
    """Return the requested format, and set the encoding of standard output so that any name can be written."""
    chosen = name or ("table" if sys.stdout.isatty() else "csv")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=None if chosen == "table" else "utf-8", errors="backslashreplace")
    match chosen:
        case "table":
            return formats.as_table(names, classes)
        case "json":
            return formats.as_json()
        case _:
            return formats.as_csv()


def run() -> None:
    """Run the command as a process that ends without a message when the reader of its output, as `head`, has ended."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes standard output on exit
        sys.exit(BROKEN_PIPE)
    except signals.Interrupted as interruption:
        log.warning("Interrupted. The predictions so far are complete; the same command starts from the beginning.")
        sys.exit(interruption.exit_code)
