"""Command: predict the classes of the photographs that a command line names, and write them to standard output."""

import argparse
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from transfer.prediction import answers, formats, heat_maps, inputs, model_file, versions
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
                for name, result, heat_map in batch:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Predict the photographs that the command line names.

    Raises:
        DataError: the model cannot be used, or some photographs cannot be read; the others are predicted.
    """
    arguments = _parser().parse_args(argv)
    model = versions.select(versions.project(), arguments.model)
    card = model_file.check(model.file)
    with inputs.photographs(arguments.photographs) as (found, skipped):
        _log_unreadable(found, skipped)
        readable = [photograph for photograph in found if photograph.error is None]
        output = _output_format(arguments.format, [photograph.name for photograph in readable], card.classes)
        counts = _predict(
            model.file, readable, output, heat_map_folder=arguments.heatmaps, always=arguments.answer == "always"
        )
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
    model: Path, photographs: Sequence[InputPhotograph], output: Format, *, heat_map_folder: Path | None, always: bool
) -> Counter[str]:
    """Load the model and write the predictions; without photographs TensorFlow is not imported."""
    if not photographs:
        return write([], output, total=0, gallery=None)
    from transfer.features import extraction  # noqa: PLC0415 - importing TensorFlow takes seconds
    from transfer.prediction.model import load  # noqa: PLC0415 - likewise

    with suppress(RuntimeError):  # if this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    loaded = load(model, always=always)
    names = [photograph.name for photograph in photographs]
    with (
        heat_maps.gallery(heat_map_folder, names) if heat_map_folder else nullcontext() as gallery,
        closing(answers.in_batches(loaded, photographs, heat_maps=heat_map_folder is not None)) as batches,
    ):
        return write(batches, output, total=len(names), gallery=gallery)


def _log_failure(name: str, reason: str) -> None:
    log.warning("%s: %s", printable(name), printable(reason))


def _counted(photographs: int) -> str:
    return f"{photographs} photograph{'' if photographs == 1 else 's'}"


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
    parser.add_argument(
        "--heatmaps",
        type=heat_maps.folder,
        metavar="FOLDER",
        help="write a heat map of each photograph, which shows the regions that support its class, and an index.html",
    )
    return parser


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
