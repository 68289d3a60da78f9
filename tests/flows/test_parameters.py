import shutil
from pathlib import Path

import pytest

from flows import parameters
from transfer.runtime.errors import ParamsError

ROOT = Path(__file__).parents[2]


def test_params_yaml_is_checked_as_the_stages_would(project: Path) -> None:
    """Every mistake is a line that names the parameter."""
    del project
    for folder in ("tasks", "transfer"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("source: kaggle", "source: nowhere").replace("bins: 10", "bins: 0"))
    with pytest.raises(ParamsError) as error:
        parameters.check()
    lines = str(error.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["`download.source`", "`evaluate.bins`"]
