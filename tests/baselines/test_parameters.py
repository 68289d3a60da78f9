from pathlib import Path

import pytest

from baselines import compare, parameters
from transfer.runtime.errors import ParamsError


def test_a_missing_value_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the parameter and baselines/params.yaml, not the file of the main pipeline."""
    monkeypatch.chdir(tmp_path)
    Path("baselines").mkdir()
    Path("baselines/params.yaml").write_text("compare: {}\n")
    with pytest.raises(ParamsError, match=r"`compare\.confidence` is missing from baselines/params\.yaml"):
        parameters.load("compare", compare.Params)
