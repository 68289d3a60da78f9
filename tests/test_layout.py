"""The layout of the project: names, imports, dependencies and sizes."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import transfer

ROOT = Path(__file__).parent.parent
PACKAGES = ("transfer", "tasks", "flows", "baselines", "dogs_vs_cats")
WINGS = ("runtime", "sources", "images", "network", "features", "training", "evaluation", "prediction")
DATA_STAGES = ("download", "fetch_weights", "subsample", "split")
FORBIDDEN = {  # top-level packages that a package must not import
    "transfer": {"tasks", "flows", "baselines", "dogs_vs_cats", "prefect", "dvc"},
    "tasks": {"tasks", "flows", "baselines", "dogs_vs_cats", "prefect", "dvc"},
    "baselines": {"tasks", "flows", "dogs_vs_cats", "prefect", "dvc"},
    "flows": {"tasks", "baselines", "dogs_vs_cats", "tensorflow", "keras"},
    "dogs_vs_cats": {"baselines", "prefect", "tensorflow", "keras"},
}
MAX_MODULE = 300
MAX_FUNCTION = 30


def read_yaml(path: str) -> dict[str, Any]:
    """Return the content of a YAML file of the project."""
    content: dict[str, Any] = YAML(typ="safe").load(ROOT / path)
    return content


STAGES = read_yaml("dvc.yaml")["stages"]
BASELINES = read_yaml("baselines/dvc.yaml")["stages"]


def modules(*folders: str) -> list[Path]:
    """Return all modules below some folders, relative to the project."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named_modules(*folders: str) -> list[Path]:
    """Return all modules below some folders but `__init__.py` and `__main__.py`."""
    return [path for path in modules(*folders) if not path.name.startswith("__")]


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the dotted names of all that a module imports, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} must import by an absolute name"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def imported_packages(path: Path) -> set[str]:
    """Return the top-level names of all that a module imports."""
    return {name.partition(".")[0] for name in imports(path)}


def reachable_modules(path: Path) -> set[Path]:
    """Return the project's modules that a module imports, directly or through another."""
    known, found, waiting = set(modules(*PACKAGES)), set[Path](), [path]
    while waiting:
        files = {Path(*name.split(".")).with_suffix(".py") for name in imports(waiting.pop())}
        new = (files & known) - found
        found |= new
        waiting += new
    return found


def wing(path: Path) -> str:
    """Return the wing of a module of transfer/."""
    return path.parts[1]


def paths(entries: Iterable[Any]) -> list[str]:
    """Return the paths of dependencies or outputs in a dvc.yaml, which may have options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outputs(stage: dict[str, Any]) -> list[str]:
    """Return the paths of all outputs of a stage."""
    return [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]


def code_of(stage: dict[str, Any]) -> list[str]:
    """Return a stage's dependencies that are code."""
    return [path for path in paths(stage["deps"]) if Path(path).parts[0] in PACKAGES]


def expected_code(module: Path) -> set[str]:
    """Return the code that a stage must depend on: its module, its package's modules and the wings it reaches."""
    reached = reachable_modules(module)
    wings = {f"transfer/{wing(path)}" for path in reached if path.parts[0] == "transfer"}
    return wings | {path.as_posix() for path in {module, *reached} if path.parts[0] != "transfer"}


def test_a_stage_has_one_name() -> None:
    """dvc.yaml, tasks/, params.yaml and tests/tasks/ name the same stages, and so do commands, sections and folders.

    The section `promote` alone belongs to no stage.
    """
    assert {path.stem for path in named_modules("tasks")} == set(STAGES)
    assert set(read_yaml("params.yaml")) == {*STAGES, "promote"}
    assert {path.stem.removeprefix("test_") for path in (ROOT / "tests/tasks").glob("test_*.py")} == set(STAGES)
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"exec env -u PYTHONSAFEPATH python -m tasks {name}"
        assert stage["params"] == [name]
        assert outputs(stage)
        assert all(Path(path).is_relative_to(f"artifacts/{name}") for path in outputs(stage)), name


def test_a_stage_of_the_baselines_has_one_name() -> None:
    """baselines/dvc.yaml and baselines/ name the same stages, and so do commands, sections and folders."""
    assert {path.stem for path in named_modules("baselines")} >= set(BASELINES)
    for name, stage in BASELINES.items():
        assert stage["wdir"] == ".."
        assert stage["cmd"].removesuffix(" ${item.model}") == f"exec env -u PYTHONSAFEPATH python -m baselines {name}"
        assert stage["params"][0]["baselines/params.yaml"][0] == name
        assert all(Path(path).is_relative_to(f"artifacts/baselines/{name}") for path in outputs(stage)), name


def test_a_baseline_has_one_name() -> None:
    """baselines/dvc.yaml, its params.yaml and its code name the same models, in the same order."""
    models = BASELINES["train"]["matrix"]["model"]
    (names,) = [
        [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in parse(Path("baselines/models.py")).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
    ]
    assert names == models
    assert set(read_yaml("baselines/params.yaml")) == {*BASELINES, *models}


def test_a_stage_depends_on_the_code_it_imports() -> None:
    """A stage names its module and the wings that the module reaches by imports, so that their changes rerun it."""
    for package, stages in (("tasks", STAGES), ("baselines", BASELINES)):
        for name, stage in stages.items():
            expected, declared = expected_code(Path(package, f"{name}.py")), code_of(stage)
            missing, unused = sorted(expected - set(declared)), sorted(set(declared) - expected)
            assert sorted(declared) == sorted(expected), f"{name} must depend on {missing} and not on {unused}"


def test_a_stage_depends_on_code_artifacts_and_files_of_the_user_alone() -> None:
    """No stage reads a file that neither the project nor the user nor another stage provides."""
    for name, stage in (STAGES | BASELINES).items():
        for path in paths(stage["deps"]):
            assert Path(path).parts[0] in (*PACKAGES, "inbox", "artifacts", "corrections.csv"), f"{name}: {path}"


def test_a_wing_imports_only_wings_below_it() -> None:
    """transfer/ has the wings in `WINGS`, from the lowest to the highest, and no module outside of them."""
    assert {path.parent.name for path in (ROOT / "transfer").glob("*/__init__.py")} == set(WINGS)
    for path in modules("transfer"):
        if path == Path("transfer/__init__.py"):
            continue
        above = WINGS[WINGS.index(wing(path)) + 1 :]
        wrong = [name for name in imports(path) if name.startswith(tuple(f"transfer.{higher}" for higher in above))]
        assert not wrong, f"{path} imports {wrong[0]}, which is in a wing above {wing(path)}"


def test_packages_import_only_what_they_may_know() -> None:
    """The library works without DVC and Prefect, a task knows no other task, and flows reproduce stages by DVC."""
    for package, forbidden in FORBIDDEN.items():
        for path in named_modules(package):
            wrong = imported_packages(path) & forbidden
            assert not wrong, f"{path} must not import {', '.join(wrong)}"


def test_stages_of_the_baselines_import_no_other_stage() -> None:
    """A stage gives files to the next one."""
    stages = {f"baselines.{name}" for name in BASELINES}
    for path in named_modules("baselines"):
        assert not imports(path) & stages, path


def test_flows_reach_no_tensorflow() -> None:
    """No module that flows/ imports, directly or through another, imports TensorFlow or Keras."""
    for path in modules("flows"):
        for reached in reachable_modules(path):
            assert not imported_packages(reached) & {"tensorflow", "keras"}, f"{path} reaches {reached}"


def test_kaggle_is_imported_in_one_module_and_only_when_used() -> None:
    """Importing the project never starts Kaggle's client, which may print, ask and end the process."""
    importing = [path for path in modules(*PACKAGES) if imported_packages(path) & {"kaggle", "kagglesdk"}]
    assert len(importing) == 1
    for node in parse(importing[0]).body:
        assert not (isinstance(node, ast.Import | ast.ImportFrom) and "import kaggle" in ast.unparse(node))
        assert not (isinstance(node, ast.ImportFrom) and str(node.module).startswith("kaggle"))


def test_data_stages_start_no_tensorflow() -> None:
    """Data stages start at once: neither they nor the modules they use import TensorFlow or Keras."""
    program = f"""
import importlib, sys
for name in {DATA_STAGES}:
    importlib.import_module(f"tasks.{{name}}")
    heavy = {{"tensorflow", "keras"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_importing_a_module_only_defines() -> None:
    """At a module's top nothing is written, read or started; but for checks of packages and of Prefect's settings."""
    checks = ("stage.require_packages(", "prefect_settings.report_errors(")
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    allowed = definitions | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.If | ast.Try
    for path in modules(*PACKAGES):
        if path != Path("transfer/network/backend.py"):
            for node in parse(path).body[1:]:
                is_check = ast.unparse(node).startswith(checks)
                assert isinstance(node, allowed) or is_check, f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_every_module_has_its_test_file() -> None:
    """tests/ mirrors the folders; `__init__.py` defines nothing, and `__main__.py` is tested by running its command."""
    expected = [Path("tests") / path.with_name(f"test_{path.name}") for path in named_modules(*PACKAGES)]
    assert [str(path) for path in expected if not (ROOT / path).exists()] == []


def test_the_version_is_the_package_s() -> None:
    """The version in reports is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert transfer.__version__ == project["version"]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, also those in classes and functions."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Return the number of lines of a function without docstring, blank lines and comments."""
    documented = ast.get_docstring(function) is not None
    docstring = range(function.body[0].lineno, int(function.body[0].end_lineno or 0) + 1) if documented else range(0)
    lines = (number for number in range(function.lineno, int(function.end_lineno or 0) + 1) if number not in docstring)
    return sum(bool(source[number - 1].strip()) and not source[number - 1].strip().startswith("#") for number in lines)


def test_modules_and_functions_are_short() -> None:
    """No module has more than `MAX_MODULE` lines, no function more than `MAX_FUNCTION` lines of code."""
    too_long = []
    for path in modules(*PACKAGES):
        source = (ROOT / path).read_text(encoding="utf-8").splitlines()
        if len(source) > MAX_MODULE:
            too_long.append(f"{path}: {len(source)} lines")
        lengths = ((function, lines_of_code(function, source)) for function in functions(parse(path)))
        too_long += [f"{path}:{f.lineno} {f.name}: {lines} lines" for f, lines in lengths if lines > MAX_FUNCTION]
    assert too_long == []
