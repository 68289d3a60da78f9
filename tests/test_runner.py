"""Starting stages: the runner `python -m tasks`, the commands in dvc.yaml, and the Makefile."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks import __main__ as runner
from transfer.runtime.errors import ParamsError

ROOT = Path(__file__).parent.parent
PARAMS = (ROOT / "params.yaml").read_text()


def tasks(
    *arguments: str, folder: Path, python: tuple[str, ...] = (sys.executable,), **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m tasks` in a folder that has no modules of the project."""
    return subprocess.run(
        [*python, "-m", "tasks", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stage_runs_by_its_name(tmp_path: Path) -> None:
    """`python -m tasks split` reads params.yaml, then asks for the manifest that another stage makes."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    result = tasks("split", folder=tmp_path)
    assert (result.returncode, result.stdout) == (65, "")
    assert result.stderr == (
        "artifacts/subsample/manifest.csv is missing. Run `dvc repro`, which makes missing files.\n"
    )


def test_an_unknown_stage_is_rejected_with_the_known_ones(tmp_path: Path) -> None:
    """The usage message has the names of all stages, which are those in dvc.yaml."""
    result = tasks("guess", folder=tmp_path)
    assert result.returncode == 2
    assert "invalid choice: 'guess'" in result.stderr
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert runner.stages() == sorted(stages)
    assert all(stage in result.stderr for stage in stages)


def test_every_mistake_in_params_yaml_is_reported(tmp_path: Path) -> None:
    """`python -m tasks --check` exits with 78 and has a line for each mistake, in whatever section."""
    mistaken = PARAMS.replace("frozen_through:", "frozen_trough:").replace("confidence: 0.95", "confidence: 95", 1)
    (tmp_path / "params.yaml").write_text(mistaken + "guess: {seed: 1}\n")
    result = tasks("--check", folder=tmp_path)
    assert result.returncode == 78
    unknown, confidence, missing, typo = result.stderr.splitlines()
    assert unknown.startswith("`guess` is not a section; there are `download`, ")
    assert confidence == "`evaluate.confidence` must be less than 1. Received: 95"
    assert missing == "`extract_features.frozen_through` is missing from params.yaml."
    assert typo.startswith("`extract_features.frozen_trough` is not a parameter; `extract_features` has ")


def test_a_check_imports_no_slow_package() -> None:
    """Parameters are checked at once: TensorFlow and others, which take seconds to import, are not needed for that."""
    program = (
        "import atexit, sys; from tasks import __main__ as runner\n"
        "files = lambda: ' '.join(str(vars(module).get('__file__')) for module in [*sys.modules.values()])\n"
        "atexit.register(lambda: print([name for name in runner.SLOW if f'/{name}/' in files()]))\n"
        "runner.main(['--check'])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_several_files_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With files given, each line begins with the name of its file; files without mistakes are not mentioned."""
    monkeypatch.chdir(tmp_path)
    good, bad, missing = map(Path, ("good.yaml", "bad.yaml", "missing.yaml"))
    good.write_text(PARAMS)
    bad.write_text(PARAMS.replace("confidence: 0.95", "confidence: 95", 1))
    with pytest.raises(ParamsError) as caught:
        runner.check([good, bad, missing])
    assert str(caught.value) == (
        "bad.yaml: `evaluate.confidence` must be less than 1. Received: 95\n"
        "missing.yaml: missing.yaml is missing. Run from the folder that holds dvc.yaml."
    )
    runner.check([good])


@pytest.mark.parametrize(
    ("default", "extreme"),
    [
        ("confidence: 0.95", "confidence: 0.9999999999999999"),
        ("learning_rate: 5.0e-4", "learning_rate: 1.0e-60"),
        ("dropout: 0.5", "dropout: 0.9999999999999999"),
        ("label_smoothing: 0.0", "label_smoothing: 0.9999999999999999"),
        ("optimizer_settings: {}", "optimizer_settings: {epsilon: 1.0e-60}"),
        ("validation: 0.2", "validation: 1.0e-60"),
        ("l1: 0.0", "l1: 1.0e+60"),
        ("gigabytes: 20", "gigabytes: 1.0e+300"),
        ("seed: 0", "seed: 99999999999999999999"),
        ("photographs: 2000", "photographs: 99999999999999999999"),
    ],
)
def test_an_extreme_value_is_rejected_before_any_stage_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str, extreme: str
) -> None:
    """A value that rounding turns into a forbidden one would pass the check and fail a stage hours later."""
    assert default in PARAMS
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS.replace(default, extreme, 1))
    with pytest.raises(ParamsError) as caught:
        runner.check([])
    (line,) = str(caught.value).splitlines()
    assert "rounding to single precision" in line or "must be at most 9223372036854775807" in line


@pytest.mark.parametrize("arguments", [("split",), ("--check",)], ids=["a stage", "check"])
def test_a_python_without_the_packages_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """`.venv/bin/dvc repro` with another Python first on the PATH ends in one line that names that Python."""
    result = tasks(*arguments, folder=tmp_path, python=(sys.executable, "-S"))  # without site-packages
    assert (result.returncode, result.stdout) == (78, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("The project needs a Python that has its packages. Received: ")
    assert f"Received: {sys.executable}, which lacks `" in line
    assert "Run `make install` and `. .venv/bin/activate`" in line


@pytest.mark.parametrize("module", ["transfer.prediction", "flows.promote", "flows.serve", "dogs_vs_cats"])
def test_other_modules_in_a_python_without_the_packages(module: str, tmp_path: Path) -> None:
    """Predictions, flows and the command name the Python, too."""
    result = subprocess.run(
        [sys.executable, "-S", "-m", module, "photo.jpg"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (78, "")
    [line] = result.stderr.splitlines()
    assert f"Received: {sys.executable}, which lacks `" in line


@pytest.mark.parametrize("package", ["tasks", "baselines"])
def test_an_old_python_is_named(package: str, tmp_path: Path) -> None:
    """A stage in a Python below 3.11 ends in the one line; all code before it is valid in Python 3.8."""
    for path in (f"{package}/__init__.py", f"{package}/__main__.py", "transfer/__init__.py"):
        tree = ast.parse((ROOT / path).read_text(), feature_version=(3, 8))
    for statement in ast.parse((ROOT / package / "__main__.py").read_text()).body[1:]:
        assert isinstance(statement, ast.Import | ast.ImportFrom), "the guard must come before code"
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("transfer"):
            break
    assert isinstance(tree.body[-1], ast.If), "the guard must end the module"
    old = "import runpy, sys\nsys.version_info = (3, 8, 18)\nimport transfer"
    result = subprocess.run(
        [sys.executable, "-S", "-c", old],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 78
    assert result.stderr == (
        f"Stages need Python 3.11 or a later version. Received: {sys.executable}, which is 3.8. "
        "Run `make install` and `. .venv/bin/activate`, then try again.\n"
    )


UNNAMED = """
import pwd
def getpwuid(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = getpwuid
"""
WITHOUT_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""


@pytest.mark.reliability(
    "disk",
    "a user id without a name or home, as in containers, or a file system without locks",
    "exit 77 or 74 and one line with the variables to set or the folder",
)
@pytest.mark.parametrize(
    ("module", "arguments", "machine", "code", "message"),
    [
        ("tasks", ["download"], UNNAMED, 77, "The user must have a name and a home folder. Received: user id "),
        ("flows.demo", [], UNNAMED, 77, "The user must have a name and a home folder. Received: user id "),
        ("flows.demo", [], WITHOUT_LOCKS, 74, "`.cache` must be on a file system that has locks. Received: No locks"),
    ],
)
def test_a_machine_without_names_or_locks_is_explained(
    tmp_path: Path, *, module: str, arguments: list[str], machine: str, code: int, message: str
) -> None:
    """A command that needs the user's home, and the demo, which needs a name and locks, tell what to do."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    start = f"import runpy, sys\nsys.argv[1:] = {arguments}\nrunpy.run_module('{module}', run_name='__main__')"
    hidden = {"HOME", "USER", "LOGNAME", "LNAME", "USERNAME"} if machine == UNNAMED else set()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(
        [sys.executable, "-c", machine + start],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_stages_run_under_pythonsafepath() -> None:
    """The commands in dvc.yaml find the project's modules with PYTHONSAFEPATH=1, which hides the current folder."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    result = subprocess.run(
        [os.environ.get("SHELL", "/bin/sh"), "-c", stages["split"]["cmd"] + " --help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONSAFEPATH": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: python -m tasks")
    assert {stage["cmd"] for stage in stages.values()} == {
        f"exec env -u PYTHONSAFEPATH python -m tasks {name}" for name in stages
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with a Makefile, an installed `.venv` and scripts in it as pip writes them."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").touch()
    (folder / "pyproject.toml").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    python, body = folder / ".venv/bin/python", "import sys\nprint(sys.prefix, *sys.argv[1:])\n"
    headers = {"short": f"#!{python}\n", "long": f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"}
    for name, header in headers.items():
        (folder / ".venv/bin" / name).write_text(header + body)
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/folder").write_text(f"{folder}\n")
    (folder / ".venv/installed").touch()
    (folder / ".venv/project").touch()
    (site_packages,) = (folder / ".venv").glob("lib/python*/site-packages")
    (site_packages / "pip.py").write_text("import sys\nprint('pip', *sys.argv[1:])\n")
    return folder


def output(*command: str, folder: Path, **variables: str) -> str:
    """Run a command in a folder and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | variables
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_moved_project_is_repaired_by_make(project: Path) -> None:
    """After a move, scripts in `.venv` find their Python and `activate` names the new folder, without a download."""
    assert output("make", "install", folder=project) == "make: Nothing to be done for 'install'.\n"
    moved = project.rename(project.with_name("a moved project"))
    repaired = output("make", "install", folder=moved)
    assert "Repairing .venv" in repaired
    (pip,) = (line for line in repaired.splitlines() if line.startswith("pip "))
    assert {"--no-index", "--no-deps", "--no-build-isolation", "--editable"} <= {*pip.split()}
    for script in ("short", "long"):
        assert output(f".venv/bin/{script}", "a b", folder=moved) == f"{moved}/.venv a b\n"
    assert output("sh", "-c", '. .venv/bin/activate && printf %s "$VIRTUAL_ENV"', folder=moved) == f"{moved}/.venv"
    assert output("make", "install", folder=moved) == "make: Nothing to be done for 'install'.\n"


def test_a_copied_project_does_not_use_the_environment_of_the_first(project: Path) -> None:
    """Scripts in a copied `.venv`, which name a Python that exists, are repaired, too."""
    copy = project.with_name("copy")
    shutil.copytree(project, copy, symlinks=True)
    output("make", "install", folder=copy)
    assert output(".venv/bin/short", folder=copy) == f"{copy}/.venv\n"
    assert output(".venv/bin/short", folder=project) == f"{project}/.venv\n"


def test_make_runs_modules_under_pythonsafepath(project: Path) -> None:
    """The Makefile's `python -m` finds the project's modules with PYTHONSAFEPATH=1, which hides the current folder."""
    (project / "benchmarks").mkdir()
    modules = re.findall(r"-m benchmarks\.(\w+)", (project / "Makefile").read_text())
    for module in modules:
        (project / "benchmarks" / f"{module}.py").write_text("print('found')\n")
    assert output("make", "bench", folder=project, PYTHONSAFEPATH="1") == "found\n" * len(modules) != ""
