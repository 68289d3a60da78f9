"""Predict the classes of photographs: `python -m transfer.prediction photo.jpg folder/ archive.zip`."""

import argparse
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from transfer.images import decoding, filenames
from transfer.images.formats import UnreadablePhoto
from transfer.prediction import formats, inputs
from transfer.prediction.formats import Format, printable, text
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime import files, paths, progress, signals, stage
from transfer.runtime.errors import DataError

if TYPE_CHECKING:  # importing TensorFlow takes seconds: errors in the arguments are reported before
    from transfer.prediction.model import Model, Prediction

log = logging.getLogger(__name__)

EDGE = 1024  # pixels of a heat map's longer edge, at most
BROKEN_PIPE = 141  # the exit code that a shell reports for a program ended by SIGPIPE
_QUALITY = 90  # of JPEG


class Answer(NamedTuple):
    """The result for a photograph: a prediction or the reason for a failure, and the heat map's JPEG if requested."""

    name: str
    result: "Prediction | str"
    heat_map: bytes | None = None


def answers(
    model: "Model", photographs: Sequence[InputPhotograph], *, heat_maps: bool
) -> Generator[Sequence[Answer], None, None]:
    """Predict photographs on all cores, and yield the answers in batches, in the order of the photographs."""
    from transfer.features import extraction  # noqa: PLC0415 - TensorFlow, see above
    from transfer.prediction.model import BATCH  # noqa: PLC0415 - TensorFlow, see above

    return extraction.map_batches(partial(_answers, model, heat_maps=heat_maps), photographs, batch=BATCH)


def _answers(model: "Model", batch: Sequence[InputPhotograph], *, heat_maps: bool) -> list[Answer]:
    decoded = [_decoded(photograph) for photograph in batch]
    images = [image for image in decoded if isinstance(image, Image.Image)]
    results = iter(_explained(model, images) if heat_maps else [(result, None) for result in model.each(images)])
    return [
        Answer(name, image) if isinstance(image, str) else Answer(name, *next(results))
        for (name, _), image in zip(batch, decoded, strict=True)
    ]


def _decoded(photograph: InputPhotograph) -> Image.Image | str:
    """Return the photograph, or the reason why it cannot be read."""
    try:
        return decoding.decode(photograph.read())
    except (UnreadablePhoto, DataError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _explained(model: "Model", images: Sequence[Image.Image]) -> list[tuple["Prediction", bytes]]:
    from transfer.evaluation import heatmaps  # noqa: PLC0415 - TensorFlow, see above

    def encoded(image: Image.Image, heat: heatmaps.HeatMap) -> bytes:
        image.thumbnail((EDGE, EDGE))
        file = io.BytesIO()
        heatmaps.overlay(image, heat, resizing=model.card.resizing).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    explanations = zip(images, model.explain(images), strict=True)
    return [(explanation.prediction, encoded(image, explanation.heat)) for image, explanation in explanations]


def write(
    batches: Iterable[Sequence[Answer]], output: Format, *, total: int, heat_maps: Mapping[str, Path]
) -> Counter[str]:
    """Write predictions to standard output, heat maps to files and failures to standard error, batch by batch.

    Args:
        batches: the answers in batches.
        output: the format of the predictions.
        total: the number of answers.
        heat_maps: the file for the heat map of each photograph, by the photograph's name.

    Returns:
        The number of photographs predicted as each class.
    """
    counts: Counter[str] = Counter()
    sys.stdout.write(output.header)
    with progress.bar(total=total, description="predict", unit="photographs") as bar:
        for batch in batches:
            with progress.paused():
                for name, result, heat_map in batch:
                    if isinstance(result, str):
                        log.warning("%s: %s", printable(name), printable(result))
                    else:
                        sys.stdout.write((output.separator if counts else "") + output.row(text(name), result))
                        counts[result.class_name] += 1
                    if heat_map is not None:
                        files.write_bytes(heat_maps[name], heat_map)
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
    from transfer.features import extraction  # noqa: PLC0415 - TensorFlow, see above
    from transfer.prediction.model import load  # noqa: PLC0415 - TensorFlow, see above

    with suppress(RuntimeError):  # if this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    model = load(arguments.model)
    with inputs.photographs(arguments.photographs) as photographs:
        names = [photograph.name for photograph in photographs]
        with closing(answers(model, photographs, heat_maps=arguments.heatmaps is not None)) as batches:
            counts = write(
                batches,
                _output_format(arguments.format, names, model.card.classes),
                total=len(names),
                heat_maps=_heat_maps(arguments.heatmaps, names) if arguments.heatmaps else {},
            )
    summary = ", ".join(f"{counts[class_name]} {printable(class_name)}" for class_name in model.card.classes)
    log.info("%d photographs: %s", counts.total(), summary)
    if counts.total() < len(names):
        raise DataError(
            f"{len(names) - counts.total()} of {len(names)} photographs could not be predicted; the reasons are above."
        )


def _heat_maps(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return a distinct file in `folder` for the heat map of each photograph, by the photograph's name."""
    wanted = {name: f"{text(name)}.heat.jpg" for name in names}
    safe = filenames.safe(wanted.values())
    return {name: folder / safe[file] for name, file in wanted.items()}


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
        type=Path,
        metavar="FILE",
        default=paths.artifact("fine_tune", "model.keras"),
        help="a network with its model.json in the same folder; the default is %(default)s",
    )
    parser.add_argument(
        "--heatmaps",
        type=Path,
        metavar="FOLDER",
        help="write a heat map of each photograph, which shows the regions that support its class",
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


def _process() -> None:
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


if __name__ == "__main__":
    stage.run(_process)
