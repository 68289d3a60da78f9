import json

from tests.baselines.conftest import Baselines


def test_the_time_per_row_is_measured(baselines: Baselines) -> None:
    """The stage writes and logs the seconds per row, measured on as many photographs as its parameter asks for."""
    metrics = json.loads((baselines.folder / "artifacts/baselines/measure_extraction/metrics.json").read_text())
    assert metrics["photographs"] == 9
    assert 0 < metrics["seconds_per_row"] < 10
    assert f"{metrics['seconds_per_row']:.3f} seconds per row, measured on 9 photographs" in baselines.output
