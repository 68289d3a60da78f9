"""Resumption: predict many photographs, and keep each batch, so that a killed run continues where it stopped."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from transfer.prediction.answers import Answer
from transfer.prediction.inputs import InputPhotograph
from transfer.runtime import disk, progress

Predict = Callable[[Sequence[InputPhotograph]], Generator[Sequence[Answer], None, None]]


class Predictions:
    """The probabilities of one class by a photograph's name, in a file to which each batch is appended.

    Args:
        file: its name must depend on the network; the names of photographs must depend on their content.
        class_name: the class.
    """

    def __init__(self, file: Path, class_name: str) -> None:
        self.values: dict[str, float] = dict(_rows(file)) if file.exists() else {}
        self._file = file
        self._class_name = class_name

    def complete(self, photographs: Mapping[str, InputPhotograph], predict: Predict, *, task: str) -> dict[str, str]:
        """Predict the photographs that have no probability yet.

        Args:
            photographs: by name.
            predict: yields the answers to photographs in batches; it is not called without photographs.
            task: for the progress bar.

        Returns:
            The reasons of the photographs that cannot be read, by name.

        Raises:
            DiskError: the disk refuses.
        """
        missing = {name: photograph for name, photograph in photographs.items() if name not in self.values}
        if not missing:
            return {}
        unreadable: dict[str, str] = {}
        names, done = iter(missing), len(photographs) - len(missing)
        with (
            closing(predict(list(missing.values()))) as batches,
            progress.bar(total=len(photographs), description=task, unit="photographs", initial=done) as bar,
        ):
            for batch in batches:
                results = {next(names): answer.result for answer in batch}
                unreadable |= {name: result for name, result in results.items() if isinstance(result, str)}
                predictions = {name: result for name, result in results.items() if not isinstance(result, str)}
                self._add({name: each.probabilities[self._class_name] for name, each in predictions.items()})
                bar.update(len(batch))
        return unreadable

    def _add(self, values: Mapping[str, float]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"\n{json.dumps([name, value])}" for name, value in values.items())  # after a torn line, too
        with disk.space_for({self._file.parent: len(lines)}), self._file.open("a", encoding="utf-8") as file:
            file.write(f"{lines}\n")
        self.values |= values


def _rows(file: Path) -> Iterable[tuple[str, float]]:
    """Yield the complete lines of a file; a process that was killed may have left a part of one."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            match json.loads(line):
                case [str(name), float(value)] if 0 <= value <= 1:
                    yield name, value
        except ValueError:
            continue
