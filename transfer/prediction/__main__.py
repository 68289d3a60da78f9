"""Say what photographs show: `python -m transfer.prediction photo.jpg folder/ archive.zip`."""

import argparse
import csv
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from transfer.images import decoding, filenames
from transfer.prediction import inputs
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime import files, paths, progress, signals, stage
from transfer.runtime.errors import DataError

if TYPE_CHECKING:  # TensorFlow takes seconds to import: what is wrong with the arguments is said before
    from transfer.prediction.model import Model, Prediction

log = logging.getLogger(__name__)

EDGE = 1024  # pixels of a heat map's longer edge, at most
READER_HAS_GONE = 141  # what a shell shows of a program that wrote to a closed pipe
_QUALITY = 90  # of JPEG


class Answer(NamedTuple):
    """What came of a photograph: a prediction or the reason why there is none, and the heat map's JPEG if asked for."""

    name: str
    found: "Prediction | str"
    heat_map: bytes | None = None


class Form(NamedTuple):
    """How answers are written: what comes first, each of them, what comes between two, and what comes last."""

    first: str
    row: Callable[[str, "Prediction"], str]
    between: str = ""
    last: str = ""


def as_csv() -> Form:
    """Rows of file, class and probability under a heading."""
    return Form(
        _row_of_csv("file", "class", "probability"),
        lambda name, found: _row_of_csv(name, found.class_name, f"{found.probability:.9g}"),
    )


def as_json() -> Form:
    """A list of objects, each with the probabilities of all classes too."""
    return Form("[\n", _object, ",\n", "\n]\n")


def as_table(names: Sequence[str], classes: Sequence[str]) -> Form:
    """Columns to be read in a terminal, wide enough for these names and classes."""
    first, second = (max(len(printable(cell)) for cell in column) for column in (["file", *names], ["class", *classes]))

    def row(name: str, class_name: str, probability: str) -> str:
        return f"{printable(name):{first}}  {printable(class_name):{second}}  {probability:>11}\n"

    return Form(
        row("file", "class", "probability"),
        lambda name, found: row(name, found.class_name, f"{found.probability:.4f}"),
    )


def text(name: str) -> str:
    r"""A file's name as text: bytes in it that are no UTF-8 are written as `\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def printable(name: str) -> str:
    """A name in which what a terminal would obey instead of showing it is escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text(name))


def answers(
    model: "Model", photographs: Sequence[InputPhotograph], *, heat_maps: bool
) -> Generator[Sequence[Answer], None, None]:
    """Say what each photograph shows, a few at a time and in their order, on all cores."""
    from transfer.features import extraction  # noqa: PLC0415 - TensorFlow, as above
    from transfer.prediction.model import BATCH  # noqa: PLC0415 - likewise

    return extraction.map_batches(partial(_answers, model, heat_maps=heat_maps), photographs, batch=BATCH)


def _answers(model: "Model", batch: Sequence[InputPhotograph], *, heat_maps: bool) -> list[Answer]:
    seen = [_seen(photograph) for photograph in batch]
    images = [image for image in seen if isinstance(image, Image.Image)]
    found = iter(_explained(model, images) if heat_maps else [(each, None) for each in model.each(images)])
    return [
        Answer(name, image) if isinstance(image, str) else Answer(name, *next(found))
        for (name, _), image in zip(batch, seen, strict=True)
    ]


def _seen(photograph: InputPhotograph) -> Image.Image | str:
    """The photograph, or the reason why it cannot be had."""
    try:
        return decoding.decode(photograph.read())
    except (decoding.UnreadablePhoto, DataError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def _explained(model: "Model", images: Sequence[Image.Image]) -> list[tuple["Prediction", bytes]]:
    from transfer.evaluation import heatmaps  # noqa: PLC0415 - TensorFlow, as above

    def drawn(image: Image.Image, heat: heatmaps.HeatMap) -> bytes:
        image.thumbnail((EDGE, EDGE))
        file = io.BytesIO()
        heatmaps.overlay(image, heat, resizing=model.card.resizing).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    explanations = zip(images, model.explain(images), strict=True)
    return [(each.prediction, drawn(image, each.heat)) for image, each in explanations]


def write(
    batches: Iterable[Sequence[Answer]], form: Form, *, total: int, heat_maps: Mapping[str, Path]
) -> Counter[str]:
    """Write answers to standard output and heat maps to their files as they come, and reasons to standard error.

    Args:
        batches: a few answers at a time.
        form: of the answers.
        total: how many there will be.
        heat_maps: where the heat map of a photograph goes, by the photograph's name.

    Returns:
        How many photographs show each class.
    """
    counts: Counter[str] = Counter()
    sys.stdout.write(form.first)
    with progress.bar(total=total, description="predict", unit="photographs") as bar:
        for batch in batches:
            with progress.paused():
                for name, found, heat_map in batch:
                    if isinstance(found, str):
                        log.warning("%s: %s", printable(name), printable(found))
                    else:
                        sys.stdout.write((form.between if counts else "") + form.row(text(name), found))
                        counts[found.class_name] += 1
                    if heat_map is not None:
                        files.write_bytes(heat_maps[name], heat_map)
                sys.stdout.flush()
            bar.update(len(batch))
    sys.stdout.write(form.last)
    sys.stdout.flush()
    return counts


def main(argv: Sequence[str] | None = None) -> None:
    """Predict what the photographs show that the command line names.

    Raises:
        DataError: the model cannot be used, or some photographs could not be read; the others are done.
    """
    given = _parser().parse_args(argv)
    from transfer.features import extraction  # noqa: PLC0415 - TensorFlow, as above
    from transfer.prediction.model import load  # noqa: PLC0415 - likewise

    with suppress(RuntimeError):  # where this process has used TensorFlow before
        extraction.use_one_thread_per_replica()
    model = load(given.model)
    classes = model.card.classes
    with inputs.photographs(given.photographs) as photographs:
        names = [photograph.name for photograph in photographs]
        with closing(answers(model, photographs, heat_maps=given.heatmaps is not None)) as batches:
            counts = write(
                batches,
                _form(given.format, names, classes),
                total=len(names),
                heat_maps=_heat_maps(given.heatmaps, names) if given.heatmaps else {},
            )
    log.info("%d photographs: %s", counts.total(), ", ".join(f"{counts[each]} {printable(each)}" for each in classes))
    if counts.total() < len(names):
        raise DataError(
            f"{len(names) - counts.total()} of {len(names)} photographs could not be predicted; the reasons are above."
        )


def _heat_maps(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """A file for the heat map of each photograph: in the folder itself, and another one for each name."""
    wanted = {name: f"{text(name)}.heat.jpg" for name in names}
    safe = filenames.safe(wanted.values())
    return {name: folder / safe[file] for name, file in wanted.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transfer.prediction", description="Say what photographs show.")
    parser.add_argument(
        "photographs",
        nargs="+",
        metavar="PHOTOGRAPH",
        help="a file, a folder, a pattern in quotes, a zip archive, or - for one photograph on standard input",
    )
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), help="of the answers; table in a terminal, csv elsewhere"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        default=paths.artifact("fine_tune", "model.keras"),
        help="a network with its model.json beside it; %(default)s unless given",
    )
    parser.add_argument(
        "--heatmaps", type=Path, metavar="FOLDER", help="where to put what in each photograph spoke for its class"
    )
    return parser


def _form(name: str | None, names: Sequence[str], classes: Sequence[str]) -> Form:
    """The form asked for, with standard output made ready for it: any name can be written."""
    chosen = name or ("table" if sys.stdout.isatty() else "csv")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=None if chosen == "table" else "utf-8", errors="backslashreplace")
    match chosen:
        case "table":
            return as_table(names, classes)
        case "json":
            return as_json()
        case _:
            return as_csv()


def _row_of_csv(*cells: str) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\r\n").writerow(cells)  # so that cells with either character are quoted
    return row.getvalue().removesuffix("\r\n") + "\n"


def _object(name: str, found: "Prediction") -> str:
    row = {
        "file": name,
        "class": found.class_name,
        "probability": found.probability,
        "probabilities": found.probabilities,
    }
    return json.dumps(row, ensure_ascii=False)


def _process() -> None:
    """The command as a process, which ends without a word when its reader has gone, as `head` goes."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
        sys.exit(READER_HAS_GONE)
    except signals.Interrupted as asked:
        log.warning("Interrupted. The answers so far are whole; the same command begins anew.")
        sys.exit(asked.exit_code)


if __name__ == "__main__":
    stage.run(_process)
