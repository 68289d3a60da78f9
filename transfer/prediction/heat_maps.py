"""Heat maps: a folder with a picture for each predicted photograph, and a page that shows them."""

import argparse
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jinja2
from PIL import Image

from transfer.images import decoding, filenames
from transfer.prediction.formats import printable, text
from transfer.runtime import files

if TYPE_CHECKING:  # importing TensorFlow takes seconds: errors in the arguments are reported before
    from transfer.prediction.model import Explanation, Prediction

EDGE = 1024  # pixels of a heat map's longer edge, at most
INDEX = "index.html"
_QUALITY = 90  # of JPEG
_GENERATOR = '<meta name="generator" content="dogs-vs-cats heat maps">'  # by this line the page is recognized


class HeatMap(NamedTuple):
    """A heat map on the page: its file, and the photograph's name, class, probability and answer."""

    file: str
    photograph: str
    class_name: str
    probability: float
    answer: str


def folder(argument: str) -> Path:
    """Return the folder that a command-line argument names, into which heat maps may be written.

    Files are named after photographs, so they must not lie among other files of the user.

    Raises:
        ArgumentTypeError: it has other content than heat maps.
    """
    path = Path(argument)
    if path.exists() and not (path.is_dir() and (_is_ours(path / INDEX) or not any(path.iterdir()))):
        raise argparse.ArgumentTypeError(
            f"it must name a new or empty folder, or one of earlier heat maps. Received: {printable(argument)}"
        )
    return path


def names(photographs: Iterable[str]) -> dict[str, str]:
    """Return a distinct file name for the heat map of each photograph: its own name, with a number if it is taken."""
    photographs = list(dict.fromkeys(photographs))
    plain = {name: f"{text(Path(name).stem) or 'photograph'}.jpg" for name in photographs}
    taken: Counter[str] = Counter()
    used = {INDEX}
    return {name: next(_free(plain[name], taken, used)) for name in photographs}


def _free(name: str, taken: Counter[str], used: set[str]) -> Iterator[str]:
    """Yield a valid name that is not used, without regard to case, and mark it as used."""
    [valid] = filenames.safe([name]).values()
    while True:
        taken[valid.casefold()] += 1
        number = taken[valid.casefold()]
        candidate = valid if number == 1 else f"{Path(valid).stem}-{number}.jpg"
        if candidate.casefold() not in used:
            used.add(candidate.casefold())
            yield candidate


def picture(photograph: Image.Image, explanation: "Explanation", *, resizing: decoding.Resizing) -> bytes:
    """Return a photograph with its heat map as JPEG."""
    from transfer.evaluation import heatmaps  # noqa: PLC0415 - TensorFlow, see above

    photograph.thumbnail((EDGE, EDGE))
    file = io.BytesIO()
    heatmaps.overlay(photograph, explanation.heat, resizing=resizing).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


@contextmanager
def gallery(folder: Path, photographs: Sequence[str]) -> Iterator["Gallery"]:
    """Yield the gallery of some photographs, and write its page at the end, also if the block is interrupted.

    Args:
        folder: the folder to write to, as `folder` returns it.
        photographs: the photographs' names.
    """
    created = Gallery(folder, names(photographs), {})
    created.write_page()  # so that the folder is recognized even if this process is killed
    try:
        yield created
    finally:
        created.write_page()


class Gallery(NamedTuple):
    """A folder of heat maps, with the file name of each photograph's heat map, and the heat maps written so far."""

    folder: Path
    file_names: dict[str, str]
    written: dict[str, HeatMap]

    def add(self, photograph: str, prediction: "Prediction", heat_map: bytes) -> None:
        """Write the heat map of a photograph, as `picture` returns it."""
        file = self.file_names[photograph]
        files.write_bytes(self.folder / file, heat_map)
        class_name, probability, _, answer = prediction
        self.written[photograph] = HeatMap(file, printable(photograph), class_name, probability, answer)

    def write_page(self) -> None:
        """Write the page that shows the heat maps in the order of the photographs."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        template = environment.get_template("heat_maps.html.jinja")
        files.write_text(self.folder / INDEX, template.render(maps=self.written.values(), generator=_GENERATOR))


def _is_ours(page: Path) -> bool:
    try:
        return _GENERATOR in page.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
