"""What is installed is what was locked, and no code of the project runs the data that it reads."""

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-gpu.lock")
FOLDERS = ("transfer", "tasks", "flows", "baselines", "benchmarks")
PINNED = re.compile(r"[a-z0-9-]+(\[[a-z0-9, -]+\])?==[^ ]+( ; [^:@]+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

CODE_FROM_TEXT = {"compile", "__import__", "input"}  # besides `eval` and `exec`, which ruff's rules S307 and S102 find
ALLOWED_ARGUMENTS = {"shell": "False", "allow_pickle": "False", "safe_mode": "True", "verify": "True"}
ALLOWED_YAML = (
    "YAML()",
    "YAML(typ='safe')",
    "YAML(typ='safe', pure=True)",
)  # without a type it is safe and keeps comments


def modules() -> Iterator[Path]:
    """Return the project's modules."""
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def requirements(lock: str) -> Iterator[list[str]]:
    """Return each requirement of a lock, split into the package and its options, without comments."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        yield re.split(r" +(?=--)", line.strip())


@pytest.mark.reliability("supply chain", "a package without a hash, or from an address of its own", "no lock has one")
def test_every_package_is_pinned_with_its_hashes() -> None:
    """Each line of a lock has one version and at least one sha256, and names no place to get the package from."""
    for lock in LOCKS:
        packages = list(requirements(lock))
        assert len(packages) > 10
        for package, *hashes in packages:
            assert PINNED.fullmatch(package), package
            assert hashes, package
            assert all(HASH.fullmatch(option) for option in hashes), package


def wheel(folder: Path, name: str, **modules: str) -> str:
    """Make a wheel of some modules in a folder, and return the package's line in a lock."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for module, code in modules.items():
            archive.writestr(f"{name}/{module}.py", code)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return locked(path)


def locked(path: Path) -> str:
    """Return the line in a lock of a package's file."""
    return f"{path.name.partition('-')[0]}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make_install(project: Path, lock: str) -> subprocess.CompletedProcess[str]:
    """Run `make install` with a lock, the packages of the folder `wheels` and an empty environment."""
    pip = importlib.util.find_spec("pip")
    assert pip is not None
    assert pip.origin is not None
    shutil.copy(ROOT / "Makefile", project)
    (project / "requirements.lock").write_text(lock)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=project, check=True)
    (project / "with pip").mkdir()
    (project / "with pip/pip").symlink_to(Path(pip.origin).parent)
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        ["make", ".venv/installed"],  # not the project itself, which this one has not
        cwd=project,
        env={
            **settings,
            "PYTHONPATH": str(project / "with pip"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "wheels",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.reliability(
    "supply chain",
    "a package that differs from the locked one",
    "`make install` ends with an error and installs nothing",
)
@pytest.mark.parametrize(
    ("hashes", "message"),
    [
        (f"--hash=sha256:{'0' * 64}", "DO NOT MATCH THE HASHES"),
        ("", "Hashes are required"),
    ],
    ids=["another hash", "no hash"],
)
def test_a_package_that_differs_from_the_locked_one_is_not_installed(tmp_path: Path, hashes: str, message: str) -> None:
    """`make install` compares each package with the lock's hash; a lock without hashes is refused."""
    wheel(tmp_path / "wheels", "thing", code="")
    done = make_install(tmp_path, f"thing==1.0 {hashes}\n")
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / ".venv/installed").exists()
    assert not list((tmp_path / ".venv").rglob("thing*"))


BUILDS = """
import shutil
def build_wheel(folder, *settings):
    name = "thing-1.0-py3-none-any.whl"
    shutil.copy(name, folder)
    return name
"""


@pytest.mark.reliability(
    "supply chain",
    "a package that comes as source",
    "built by the locked setuptools; no unlocked build tool is fetched",
)
def test_a_package_from_source_is_built_with_locked_tools(tmp_path: Path) -> None:
    """`make install` installs the locked build tools first and builds with them; with the right hashes it succeeds."""
    tools = [wheel(tmp_path / "wheels", "setuptools", build_meta=BUILDS), wheel(tmp_path / "wheels", "wheel", code="")]
    source = tmp_path / "thing-1.0"
    wheel(source, "thing", code="")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools", "never-locked"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    with tarfile.open(tmp_path / "wheels/thing-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    done = make_install(tmp_path, "".join([locked(tmp_path / "wheels/thing-1.0.tar.gz"), *tools]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv/installed").exists()
    assert list((tmp_path / ".venv").rglob("thing/code.py"))


DANGEROUS = """
import dill
import marshal
import pickle
import shelve
import yaml
from joblib import load
import numpy as np
import keras, os, requests, shutil, subprocess, tempfile
from transfer.network import backend
eval(text)
exec(text)
os.system(command)
subprocess.getoutput(command)
subprocess.run(command, shell=True)
subprocess.run(command, shell=chosen)
np.load(path)
keras.config.enable_unsafe_deserialization()
backend.keras.config.enable_unsafe_deserialization()
requests.get(address, verify=False)
shutil.unpack_archive(path)
tempfile.mktemp()
x = 1  # noqa
y = 1  # type: ignore
"""
HARMLESS = (
    "",
    "import numpy as np",
    "import keras, os, requests, shutil, subprocess, tempfile",
    "from transfer.network import backend",
)


@pytest.mark.reliability(
    "supply chain",
    "data that is code: eval, pickle, YAML with objects, a shell, archives unpacked unchecked",
    "the linter refuses it in the project's code",
)
def test_ruff_refuses_code_that_runs_what_it_reads() -> None:
    """Ruff, as pyproject.toml configures it, has a message for each dangerous line."""
    command = [sys.executable, "-m", "ruff", "check", "--select=S,TID251,PGH", "--output-format=concise"]
    result = subprocess.run(
        [*command, "--stdin-filename=transfer/dangerous.py", "-"],
        cwd=ROOT,
        input=DANGEROUS,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = {int(number) for number in re.findall(r"^transfer/dangerous\.py:(\d+):", result.stdout, re.MULTILINE)}
    expected = {number for number, line in enumerate(DANGEROUS.splitlines(), 1) if line not in HARMLESS}
    assert refused == expected, result.stdout


def dangerous_calls(tree: ast.AST) -> Iterator[str]:
    """Return the calls that no rule of ruff finds: code from text, archives unpacked unchecked, unsafe arguments."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name in CODE_FROM_TEXT or name.endswith(".extractall"):
            yield name
        if name.split(".")[-1] == "YAML" and ast.unparse(call).removeprefix("ruamel.yaml.") not in ALLOWED_YAML:
            yield ast.unparse(call)
        for argument in call.keywords:
            value = ast.unparse(argument.value)
            if value != ALLOWED_ARGUMENTS.get(str(argument.arg), value):
                yield f"{name}({ast.unparse(argument)})"


def test_no_module_makes_an_unsafe_call() -> None:
    """No module compiles text, or opens archives, YAML, arrays, networks or addresses in an unsafe way."""
    for path in modules():
        assert list(dangerous_calls(ast.parse(path.read_text(encoding="utf-8")))) == [], path


def test_the_search_finds_each_unsafe_call() -> None:
    """The search of the test above finds each kind of call."""
    calls = """
        compile(text, name, mode)
        __import__(text)
        archive.extractall(folder)
        subprocess.run(command, shell=chosen)
        np.lib.format.read_array(file, allow_pickle=True)
        YAML(typ='unsafe')
        ruamel.yaml.YAML(typ=chosen)
        keras.saving.load_model(path, safe_mode=False)
        requests.get(address, verify=chosen)
    """
    for call in calls.strip().splitlines():
        assert list(dangerous_calls(ast.parse(call.strip()))), call


@pytest.mark.reliability(
    "supply chain", "a warning of a security rule that is switched off", "each exception states its reason"
)
def test_each_exception_from_a_security_rule_states_its_reason() -> None:
    """A line that is excepted from one of ruff's security rules says why."""
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert "# nosec" not in text, path
        for exception in re.findall(r"# noqa: (?:[A-Z]+[0-9]+, ?)*S[0-9]+[^\n]*", text):
            assert re.search(r"S[0-9]+(?: - | \()[`\w]+", exception), f"{path}: {exception}"
