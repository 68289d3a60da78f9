"""Current: the network that the page uses, and its replacement by another one while the server runs."""

import logging
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

from PIL import Image

from transfer.network import card, neighbours
from transfer.prediction import versions
from transfer.prediction.model import Model, load_selected
from transfer.runtime.errors import DataError

log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between two looks; each one reads the tags of Git, in hundredths of a second
_AFTER_FAILURE = 60.0  # seconds: a version that cannot be fetched is tried with DVC, which takes seconds


class State(NamedTuple):
    """A selected network, and size, time and inode of its files; None for a missing one."""

    selected: versions.Selected
    files: tuple[tuple[int, int, int] | None, ...]


class Current:
    """The network in use. Another one is loaded beside it, tried, and then takes its place.

    Args:
        project: the folder of the project.
        name: a file or a version; None for the version in production, or else the newest network.

    Raises:
        DataError: there is no such network, or it cannot be used.
    """

    def __init__(self, project: Path, name: str | None) -> None:
        self.problem: str | None = None  # why the selected network is not the one in use
        self._project, self._name = project, name
        self._used = self._seen = look(project, name)
        self._unusable: State | None = None
        self.model = load_and_try(self._used.selected)

    def follow(self) -> NoReturn:
        """Take up every other network that is selected, for ever."""
        while True:
            time.sleep(self.refresh())

    def refresh(self) -> float:
        """Take up the selected network if it is another one, or log why it cannot be used.

        Another one is loaded if it is the same at two looks, as a network and its card are written one after the other.

        Returns:
            The seconds until the next look.
        """
        try:
            seen = look(self._project, self._name)
        except (DataError, OSError) as error:
            self._report(error)
            return _AFTER_FAILURE
        is_settled, self._seen = seen == self._seen, seen
        if seen == self._used:
            self.problem = None
        elif is_settled and seen != self._unusable:
            self._replace(seen)
        return INTERVAL

    def _replace(self, state: State) -> None:
        try:
            self.model = load_and_try(state.selected)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one in use stays
            self._unusable = state
            self._report(error)
            return
        self._used, self._unusable, self.problem = state, None, None
        log.info("Model: %s.", self.model.name)

    def _report(self, error: Exception) -> None:
        problem = " ".join(str(error).split()) or type(error).__name__
        if problem != self.problem:
            log.warning("Another network cannot be used, so %s stays: %s", self.model.name, problem)
        self.problem = problem


def look(project: Path, name: str | None) -> State:
    """Return which network is selected now, without reading it.

    Raises:
        DataError: a version's files cannot be fetched.
    """
    selected = versions.select(project, name)
    names = (selected.file.name, card.FILE_NAME, neighbours.FILE_NAME)
    return State(selected, tuple(_stamp(selected.file.with_name(name)) for name in names))


def load_and_try(selected: versions.Selected) -> Model:
    """Load a network, and predict an empty picture, which also prepares the later predictions.

    Raises:
        DataError: it cannot be loaded, or does not predict.
    """
    model = load_selected(selected)
    empty = Image.new("RGB", (model.card.image_size, model.card.image_size))
    model.each([empty])
    model.explain([empty])
    return model


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
