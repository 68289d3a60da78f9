import json

from tests.ladder.conftest import Ladder


def test_a_row_is_timed(ladder: Ladder) -> None:
    """The stage leaves what a row takes, over as many photographs as asked for, and says it."""
    found = json.loads((ladder.folder / "artifacts/measure_extraction/metrics.json").read_text())
    assert found["photographs"] == 9
    assert 0 < found["seconds_per_row"] < 10
    assert f"{found['seconds_per_row']:.3f} seconds a row, over 9 photographs" in ladder.said
