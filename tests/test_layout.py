"""The rules of the house: one name a stage, who may know whom, and nothing read that is not declared."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import transfer

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
LADDER = YAML(typ="safe").load(ROOT / "ladder/dvc.yaml")["stages"]
DATA_STAGES = ("download", "fetch_weights", "subsample", "split")
FIRST_PARTY = ("transfer", "tasks", "flows", "ladder")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_file(name: str) -> Path:
    """Where a first-party module lies."""
    return ROOT / (name.replace(".", "/") + ".py")


def reached(path: Path) -> set[Path]:
    """First-party modules a file imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        files = {module_file(name) for name in imports(waiting.pop()) if name.split(".")[0] in FIRST_PARTY}
        new = {file for file in files if file.exists()} - found
        found |= new
        waiting += new
    return found


def modules(folder: str) -> list[Path]:
    """All modules of a folder that have a name of their own."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if not path.name.startswith("__"))


def packages(path: Path) -> set[str]:
    """Top-level names a file imports."""
    return {name.split(".")[0] for name in imports(path)}


def test_a_stage_has_one_name() -> None:
    """dvc.yaml, tasks/, params.yaml and tests/tasks/ name the same stages."""
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    names = set(STAGES)
    assert {path.stem for path in modules("tasks")} == names
    assert set(params) == names
    assert {path.stem.removeprefix("test_") for path in (ROOT / "tests/tasks").glob("test_*.py")} == names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_into_its_own_folder(stage: str) -> None:
    """What a stage makes lies below artifacts/<stage>, its command is its module, its params its section."""
    entries = [STAGES[stage].get(kind, []) for kind in ("outs", "metrics", "plots")]
    paths = [path if isinstance(path, str) else next(iter(path)) for entry in entries for path in entry]
    assert paths
    assert all(Path(path).is_relative_to(f"artifacts/{stage}") for path in paths)
    assert STAGES[stage]["cmd"] == f"exec python -m tasks.{stage}"
    assert STAGES[stage]["params"] == [stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_all_it_imports(stage: str) -> None:
    """A change in any first-party module or template a stage uses reruns it."""
    module = ROOT / "tasks" / f"{stage}.py"
    used = {str(path.relative_to(ROOT)) for path in {module, *reached(module)}}
    declared = {path for path in STAGES[stage]["deps"] if path.endswith(".py")}
    assert declared == used


@pytest.mark.parametrize("stage", LADDER)
def test_a_stage_of_the_ladder_declares_all_it_imports(stage: str) -> None:
    """The ladder's stages keep the rules of the others: module, command, section and folder have the stage's name."""
    module = ROOT / "ladder" / f"{stage}.py"
    used = {os.path.relpath(path, ROOT / "ladder") for path in {module, *reached(module)}}
    assert {path for path in LADDER[stage]["deps"] if path.endswith(".py")} == used
    assert LADDER[stage]["cmd"].split(" ${")[0] == f"exec env PYTHONPATH=.. python -m ladder.{stage}"
    assert LADDER[stage]["params"][0] == stage
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in LADDER[stage].get(kind, [])]
    made = [Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]
    assert all(path.is_relative_to(f"artifacts/{stage}") for path in made)


def test_the_ladder_s_params_are_those_of_its_stages_and_rungs() -> None:
    """dvc.yaml, params.yaml and code name the same rungs, in the same order."""
    rungs = LADDER["train"]["matrix"]["rung"]
    (named,) = [
        [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.parse((ROOT / "ladder/rungs.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    ]
    assert named == rungs
    assert {*YAML(typ="safe").load(ROOT / "ladder/params.yaml")} == {*LADDER, *rungs}
    assert [path for path in LADDER["compare"]["deps"] if path.startswith("artifacts/train/")] == [
        f"artifacts/train/{rung}" for rung in rungs
    ]


@pytest.mark.parametrize("path", modules("transfer"), ids=str)
def test_the_library_knows_no_tasks_and_no_schedulers(path: Path) -> None:
    """transfer/ can be used without Prefect and DVC."""
    assert not packages(path) & {"tasks", "ladder", "flows", "prefect", "dvc"}


@pytest.mark.parametrize("path", modules("tasks"), ids=str)
def test_a_task_knows_neither_schedulers_nor_another_task(path: Path) -> None:
    """What one stage hands to the next is a file."""
    assert not packages(path) & {"tasks", "ladder", "flows", "prefect", "dvc"}


@pytest.mark.parametrize("path", modules("ladder"), ids=str)
def test_the_ladder_stands_on_the_library_alone(path: Path) -> None:
    """ladder/ takes files from the main pipeline and calls none of its tasks, nor another of its own stages."""
    assert not packages(path) & {"tasks", "flows", "prefect", "dvc"}
    assert not imports(path) & {f"ladder.{stage}" for stage in LADDER}


@pytest.mark.parametrize("path", modules("flows"), ids=str)
def test_flows_reproduce_stages_instead_of_calling_them(path: Path) -> None:
    """flows/ imports no TensorFlow, no Keras and no task."""
    assert not packages(path) & {"tasks", "ladder", "tensorflow", "keras"}


def test_kaggle_is_imported_in_one_function() -> None:
    """Importing the project never starts Kaggle's client, which may print, ask and end the process."""
    importing = [
        (path, node)
        for folder in FIRST_PARTY
        for path in modules(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "kaggle" in ast.unparse(node)
    ]
    at_top = [(path, node) for path, node in importing if node in ast.parse(path.read_text(encoding="utf-8")).body]
    assert len({path for path, _ in importing}) == 1
    assert not at_top
    assert all(node.col_offset > 0 for _, node in importing)


@pytest.mark.parametrize("stage", DATA_STAGES)
def test_data_stages_start_no_tensorflow(stage: str) -> None:
    """Data stages start at once: neither they nor what they use import TensorFlow or Keras."""
    program = f"import sys, tasks.{stage}; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [p for folder in FIRST_PARTY for p in modules(folder)], ids=str)
def test_importing_a_module_only_defines(path: Path) -> None:
    """At a module's top there is nothing that writes, reads or starts something."""
    allowed = (
        ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If | ast.Try
    )
    body = ast.parse(path.read_text(encoding="utf-8")).body
    beyond = [node for node in body[1:] if not isinstance(node, allowed)]
    assert not beyond or path.name == "backend.py", ast.unparse(beyond[0])


@pytest.mark.parametrize("path", [*modules("transfer"), *modules("flows"), *modules("ladder")], ids=str)
def test_every_module_has_its_test_file(path: Path) -> None:
    """tests/ mirrors the folders."""
    assert (ROOT / "tests" / path.parent.name / f"test_{path.stem}.py").exists()


def test_the_version_is_the_package_s() -> None:
    """The version in reports is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert transfer.__version__ == project["version"]
