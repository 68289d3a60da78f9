import os
from pathlib import Path

from ladder import upstream


def test_the_main_pipeline_lies_one_folder_up() -> None:
    """From the ladder's folder, a path leads to where the main pipeline's stage leaves its artifact."""
    found = os.path.normpath(Path("ladder") / upstream.artifact("split", "manifest.csv"))
    assert found == os.path.normpath("artifacts/split/manifest.csv")
