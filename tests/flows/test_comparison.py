import csv
import io
import re

from flows import comparison
from flows.comparison import Result
from flows.sweep_settings import Sweep

RESULTS = [
    Result(point, seed, {"val_loss": loss, "val_accuracy": 0.9, "best_epoch": 3})
    for point, losses in (("adam", (0.2, 0.4)), ("sgd", (0.1, 0.3)))
    for seed, loss in enumerate(losses)
]


def test_the_table_has_the_best_point_first() -> None:
    """Points are in the order of their mean validation loss; several seeds have a range, one seed has none."""
    sweep = Sweep(stage="train_head", seeds=[0, 1], grid={"a.optimizer": ["adam", "sgd"]})
    lines = comparison.table(sweep, comparison.by_point(RESULTS)).splitlines()
    assert [line.split()[0] for line in lines] == ["optimizer", "sgd", "adam"]
    assert re.search(r"0\.2000 +0\.1000 to 0\.3000 +90\.0 % +3$", lines[1])
    one_seed = sweep.model_copy(update={"seeds": [0]})
    assert " to " not in comparison.table(one_seed, comparison.by_point(RESULTS[::2]))


def test_the_csv_has_a_line_for_each_point_and_seed() -> None:
    """Each line has the point, the seed and the scores."""
    rows = list(csv.DictReader(io.StringIO(comparison.csv_text(RESULTS))))
    assert [(row["point"], row["seed"]) for row in rows] == [("adam", "0"), ("adam", "1"), ("sgd", "0"), ("sgd", "1")]
    assert [row["val_loss"] for row in rows] == ["0.2", "0.4", "0.1", "0.3"]


def test_a_grid_of_two_parameters_is_a_heat_map() -> None:
    """A grid of two parameters becomes a heat map, other sweeps a strip plot of loss and accuracy."""
    grid = Sweep(stage="train_head", seeds=[0], grid={"a.b": [1, 2], "a.c": [3]})
    results = [Result(point, 0, RESULTS[0].scores) for point in ("1 3", "2 3")]
    assert "validation accuracy" not in comparison.picture(grid, comparison.by_point(results))
    points = Sweep(stage="train_head", seeds=[0], points={"1 3": {}, "2 3": {}})
    assert "validation accuracy" in comparison.picture(points, comparison.by_point(results))
