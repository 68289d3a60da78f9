from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from transfer.prediction.command import Answer
from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.model import Prediction
from transfer.prediction.resumption import Predictions


def photographs(*names: str) -> dict[str, InputPhotograph]:
    """Photographs by name."""
    return {name: InputPhotograph(f"{name}.jpg", bytes) for name in names}


def predict(asked: Sequence[InputPhotograph]) -> Generator[Sequence[Answer], None, None]:
    """Predict 0.1 for every photograph; `bad` cannot be read, and at `end` the process ends."""
    for photograph in asked:
        if photograph.name == "end.jpg":
            raise KeyboardInterrupt
        result = "damaged" if photograph.name == "bad.jpg" else Prediction("cat", 0.9, {"cat": 0.9, "dog": 0.1}, "cat")
        yield [Answer(photograph.name, result)]


def test_a_killed_run_continues(tmp_path: Path) -> None:
    """Photographs that were predicted before a kill are not predicted again, even if the last line was torn."""
    file = tmp_path / "new" / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        Predictions(file, "dog").complete(photographs("a", "b", "end"), predict, task="test")
    with file.open("a") as lines:
        lines.write('["c", 0.')
    later = Predictions(file, "dog")
    assert later.values == {"a": 0.1, "b": 0.1}
    asked: list[str] = []

    def recorded(missing: Sequence[InputPhotograph]) -> Generator[Sequence[Answer], None, None]:
        asked.extend(photograph.name for photograph in missing)
        return predict(missing)

    assert later.complete(photographs("a", "b", "c"), recorded, task="test") == {}
    assert asked == ["c.jpg"]
    assert Predictions(file, "dog").values == {"a": 0.1, "b": 0.1, "c": 0.1}


def test_unreadable_photographs_are_returned_and_tried_again(tmp_path: Path) -> None:
    """A photograph that cannot be read has a reason and no probability; what is complete needs no network."""
    predictions = Predictions(tmp_path / "predictions.jsonl", "dog")
    for _ in range(2):
        assert predictions.complete(photographs("a", "bad"), predict, task="test") == {"bad": "damaged"}
    assert predictions.complete(photographs("a"), lambda _: pytest.fail("nothing is missing"), task="test") == {}
