"""The command `dogs-vs-cats` and its help; and the help of every module that runs as a command."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dogs_vs_cats import __main__ as door
from dogs_vs_cats import workspace
from transfer.prediction import command as prediction
from transfer.prediction.page import command as page

ROOT = Path(__file__).parents[2]
FOLDERS = ("transfer", "tasks", "flows", "baselines", "dogs_vs_cats", "benchmarks", "tests")
COMMANDS = sorted(typer.main.get_command(door.app).commands)  # type: ignore[attr-defined]


class Replaced(Exception):
    """The process would have been replaced; the arguments have the module and its arguments."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, in which commands record the modules that they would start."""
    (tmp_path / "tasks").mkdir()
    for name in ("dvc.yaml", "tasks/__main__.py", "tasks/split.py"):
        (tmp_path / name).touch()
    (tmp_path / "sweeps.yaml").write_text("# comment\nwidths:\n  stage: train_head\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workspace, "replace", _replaced)
    monkeypatch.setattr(workspace, "replace_here", _replaced)
    return tmp_path


def _replaced(_: Path, module: str, *arguments: str) -> None:
    raise Replaced(module, *arguments)


def started(*arguments: str) -> tuple[str, ...]:
    """Return the module and the arguments that a command line would start in the place of this process."""
    result = CliRunner().invoke(door.app, arguments)
    assert isinstance(result.exception, Replaced), result.output
    return result.exception.args


def commands() -> list[Path]:
    """Return the modules that do something when Python runs them."""
    return [
        file.relative_to(ROOT)
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        if any(
            isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            for node in ast.parse(file.read_text(encoding="utf-8")).body
        )
    ]


HELP = """\
import contextlib, io, json, runpy, sys

printed = {}
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = None
        except SystemExit as end:
            code = end.code
    printed[module] = (code, output.getvalue())
print(json.dumps(printed))
"""  # one process for all modules, as several import Prefect or TensorFlow


def test_help_only_prints(tmp_path: Path) -> None:
    """`--help` prints the usage and does nothing else, for every module that can be run."""
    modules = [".".join(file.with_suffix("").parts).removesuffix(".__main__") for file in commands()]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *modules],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert [*printed] == modules
    for module, (code, output) in printed.items():
        assert code in (0, None), module
        assert output.lower().startswith(("usage: python -m", "usage: dogs-vs-cats")), module
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """`--help` and `-h` print the usage, and each command's line in the list is not cut."""
    for option in ("--help", "-h"):
        result = CliRunner().invoke(door.app, [command, option], prog_name="dogs-vs-cats")
        assert result.exit_code == 0
        assert f"Usage: dogs-vs-cats {command}" in result.stdout
    listed = CliRunner().invoke(door.app, ["--help"]).stdout
    assert "..." not in listed.partition("Commands:")[2]
    assert f"\n  {command} " in listed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """The table in docs/start.md has each command."""
    rows = [line for line in (ROOT / "docs/start.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert any(f"`dogs-vs-cats {command}`" in row for row in rows)


def test_importing_the_command_is_quick() -> None:
    """The command reaches no package that takes seconds to import before it is known what to do."""
    program = "import sys, dogs_vs_cats.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*done.stdout.split()} & {"prefect", "dvc", "tensorflow", "keras", "numpy", "sklearn", "rich"}


@pytest.mark.usefixtures("project")
def test_commands_start_the_project_s_modules() -> None:
    """Each command starts the module that DVC and Prefect call by `python -m`, with its options."""
    assert started("serve") == ("flows.serve",)
    assert started("worker") == ("flows.worker",)
    assert started("demo") == ("flows.demo",)
    assert started("worker", "--sweeps") == ("flows.worker", "--sweeps")
    assert started("sweep", "widths") == ("flows.sweep", "widths")
    assert started("sweep", "widths", "--on-workers") == ("flows.sweep", "widths", "--on-workers")
    assert started("push") == ("flows.remote", "push")
    assert started("push", "--experiment", "x", "origin") == ("flows.remote", "push", "--experiment", "x", "origin")
    assert started("run", "--flow", "--force", "split") == ("flows.pipeline", "--force", "split")
    assert started("run", "--flow", "--promote") == ("flows.pipeline", "--promote")
    assert started("promote", "brave-otter") == ("flows.promote", "brave-otter")
    assert started("promote", "--rollback", "v1.0.0") == ("flows.promote", "--rollback", "v1.0.0")


def test_prediction_takes_the_options_of_its_module(project: Path) -> None:
    """`predict` has the options of `python -m transfer.prediction`, which selects the model by default."""
    own = {option for action in prediction._parser()._actions for option in action.option_strings} - {"-h", "--help"}
    command = typer.main.get_command(door.app).commands["predict"]  # type: ignore[attr-defined]
    assert {option for parameter in command.params for option in parameter.opts if option.startswith("-")} == own
    assert project
    assert started("predict", "-") == ("transfer.prediction", "--", "-")
    given = ("--model=m.keras", "--format=csv", "--heatmaps=maps", "--least-certain=5", "--sheet=next.jpg")
    assert started("predict", *given, "--", "-x.jpg") == ("transfer.prediction", *given, "--", "-x.jpg")


@pytest.mark.usefixtures("project")
def test_the_page_takes_the_options_of_its_module() -> None:
    """`page` has the options of `python -m transfer.prediction.page`, also a port of zero."""
    own = {option for action in page._parser()._actions for option in action.option_strings} - {"-h", "--help"}
    command = typer.main.get_command(door.app).commands["page"]  # type: ignore[attr-defined]
    assert {option for parameter in command.params for option in parameter.opts} - {"--help"} == own
    assert started("page") == ("transfer.prediction.page",)
    given = ("--port=0", "--model=v1.0.0")
    assert started("page", *given) == ("transfer.prediction.page", *given)


def test_prediction_works_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a project, `predict` uses the project that the command belongs to, and no module of that folder."""
    (tmp_path / "transfer.py").write_text("raise SystemExit('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    program = "from dogs_vs_cats import workspace\nfrom pathlib import Path\n"
    program += f"workspace.replace_here(Path({str(ROOT)!r}), 'transfer.prediction', '--help')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.usefixtures("project")
def test_a_run_checks_all_parameters_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` checks, then runs DVC; a failure ends it with the exit code of the child, and without advice."""
    calls: list[tuple[str, ...]] = []

    def fail(_: Path, module: str, *arguments: str) -> int:
        calls.append((module, *arguments))
        return 78 if module == "tasks" else 0

    monkeypatch.setattr(workspace, "run", fail)
    result = CliRunner().invoke(door.app, ["run", "split"])
    assert (result.exit_code, result.output) == (78, "")
    assert calls == [("flows.preconditions",), ("tasks", "--check")]
    calls.clear()
    monkeypatch.setattr(workspace, "run", lambda _, *command: calls.append(command) or 0)
    assert CliRunner().invoke(door.app, ["run", "split"]).exit_code == 0
    assert calls == [("flows.preconditions",), ("tasks", "--check"), ("dvc", "repro", "split")]


@pytest.mark.usefixtures("project")
def test_options_of_the_flow_need_the_flow() -> None:
    """`run --force` and `run --push` are refused with the command that works."""
    for option in ("--force", "--push"):
        result = CliRunner().invoke(door.app, ["run", option])
        assert result.exit_code == 2
        assert "need `--flow`" in result.output


def test_the_baselines_print_both_tables(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the baselines are up to date, the table of photographs and that of digits are printed."""
    monkeypatch.setattr(door, "_reproduce", lambda *_: None)
    for name in ("evaluate/report.html", "baselines/compare/table.md", "baselines/learn_digits/table.md"):
        file = project / "artifacts" / name
        file.parent.mkdir(parents=True)
        file.write_text(f"{name}\n")
    result = CliRunner().invoke(door.app, ["baselines"])
    assert result.output == "baselines/compare/table.md\n\nbaselines/learn_digits/table.md\n"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("arguments", [["baselines"], ["scores"]], ids=lambda arguments: arguments[0])
def test_a_command_before_any_run_names_the_run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands that need results end with 65 and one line that names `dogs-vs-cats run`."""
    monkeypatch.setattr(sys, "argv", ["dogs-vs-cats", *arguments])
    with pytest.raises(SystemExit) as end:
        door.main()
    assert end.value.code == 65
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Run `dogs-vs-cats run` first.")


@pytest.mark.usefixtures("project")
def test_completion_offers_stages_and_sweeps() -> None:
    """A shell completes the names of stages and sweeps."""
    assert door.stage_names() == ["split"]
    assert door.sweep_names() == ["widths"]
