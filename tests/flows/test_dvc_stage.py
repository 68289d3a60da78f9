import json
import os
import subprocess
import sys
from pathlib import Path

from flows import workspace
from tests.flows.conftest import set_number


def report(*arguments: str) -> tuple[int, dict[str, object], str]:
    """Run the module as a process; return its exit code, its report and its output."""
    receiving, sending = os.pipe()
    with os.fdopen(receiving) as reports:
        result = subprocess.run(
            [sys.executable, "-m", "flows.dvc_stage", *arguments, "--report", str(sending)],
            env=workspace.environment(),
            pass_fds=[sending],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(sending)
        content: dict[str, object] = json.loads(reports.read())
    return result.returncode, content, result.stdout


def test_a_stage_is_reported_in_one_line_of_json(project: Path) -> None:
    """The report has the outcome and the stage, apart from the stage's output; a failed stage has its exit code."""
    del project
    code, unchanged, _ = report("download")
    assert (code, unchanged["name"], unchanged["stage"]) == (0, "Unchanged", "download")
    set_number("download", 7)
    code, ran, output = report("download")
    assert (code, ran["name"], ran["exit_code"]) == (0, "Ran", 0)
    assert "download" in output
    Path("tasks/download.py").write_text("import sys\nsys.exit(75)\n")
    code, failed, _ = report("download")
    assert (code, failed["name"], failed["exit_code"]) == (1, "Failed", 75)
