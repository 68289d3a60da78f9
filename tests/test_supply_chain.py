"""What is installed is what was locked, and nothing here runs what it reads."""

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
MODULES = sorted(
    path.relative_to(ROOT)
    for folder in ("transfer", "tasks", "flows", "baselines", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PINNED = re.compile(r"[a-z0-9-]+(\[[a-z0-9, -]+\])?==[^ ]+( ; [^:@]+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

RUNS_WHAT_IT_READS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
MODULES_THAT_DO = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS_THAT_DO = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "np.load",
    "numpy.load",
    "keras.config.enable_unsafe_deserialization",
    "tempfile.mktemp",
}
ALLOWED_ARGUMENTS = {"shell": "False", "allow_pickle": "False", "safe_mode": "True", "verify": "True"}


def lines(lock: str) -> Iterator[list[str]]:
    """Each requirement of a lock with what belongs to it, without the comments."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / lock).read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        yield re.split(r" +(?=--)", line.strip())


@pytest.mark.reliability("supply chain", "a package without a hash, or from an address of its own", "no lock has one")
@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_its_hashes(lock: str) -> None:
    """Each line of a lock has one version and at least one sha256, and says nothing of where to get it."""
    requirements = list(lines(lock))
    assert len(requirements) > 10
    for package, *hashes in requirements:
        assert PINNED.fullmatch(package), package
        assert hashes, package
        assert all(HASH.fullmatch(each) for each in hashes), package


def wheel(folder: Path, name: str, **modules: str) -> str:
    """Put a package of these modules into a folder as pip takes it; its line in a lock."""
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
    """A package's line in a lock."""
    return f"{path.name.partition('-')[0]}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make_install(project: Path, lock: str) -> subprocess.CompletedProcess[str]:
    """`make install` of a lock from the packages in the folder `wheels`, in a project with an empty environment."""
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
        ["make", "install"],
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
    "a package that is not the one that was locked",
    "make install ends with an error and installs nothing",
)
@pytest.mark.parametrize(
    ("hashes", "said"),
    [
        (f"--hash=sha256:{'0' * 64}", "DO NOT MATCH THE HASHES"),
        ("", "Hashes are required"),
    ],
    ids=["another", "none"],
)
def test_another_package_than_the_locked_one_is_not_installed(tmp_path: Path, hashes: str, said: str) -> None:
    """`make install` compares what it has got with the lock; without a hash there it does not even begin."""
    wheel(tmp_path / "wheels", "thing", code="")
    done = make_install(tmp_path, f"thing==1.0 {hashes}\n")
    assert done.returncode != 0
    assert said in done.stderr
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
    "built by the locked setuptools, in no environment into which unlocked tools are fetched",
)
def test_a_package_from_source_is_built_with_what_is_locked(tmp_path: Path) -> None:
    """`make install` installs the locked tools first and lets them build; with the right hashes all is installed."""
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


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run what it reads, or let somebody else's code in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES_THAT_DO)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES_THAT_DO:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _dangers_of_a_call(node)


def _dangers_of_a_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in RUNS_WHAT_IT_READS | CALLS_THAT_DO or name.endswith(".extractall"):
        yield name
    for argument in call.keywords:
        if ast.unparse(argument.value) != ALLOWED_ARGUMENTS.get(str(argument.arg), ast.unparse(argument.value)):
            yield f"{name}({ast.unparse(argument)})"
    safe = {"typ='safe'", "typ='safe', pure=True", ""}  # without a type it keeps comments, and is safe too
    if name == "YAML" and ", ".join(map(ast.unparse, call.keywords)) not in safe:
        yield ast.unparse(call)


@pytest.mark.reliability(
    "supply chain",
    "data that is code: eval, pickle, YAML with objects, a shell, archives unpacked as they say",
    "none of it is in the code",
)
@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_runs_what_it_reads(path: Path) -> None:
    """No module evaluates text, unpickles, starts a shell or opens YAML, arrays or networks in an unsafe way."""
    assert list(dangers(ast.parse((ROOT / path).read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "import pickle",
        "from joblib import load",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=chosen)",
        "np.load(path)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "YAML(typ='unsafe')",
        "keras.saving.load_model(path, safe_mode=False)",
        "requests.get(address, verify=False)",
        "archive.extractall(folder)",
    ],
)
def test_what_would_run_it_is_found(code: str) -> None:
    """The search itself finds each way."""
    assert list(dangers(ast.parse(code)))


@pytest.mark.reliability(
    "supply chain", "a warning of a security rule that is switched off", "each has its reason beside it"
)
@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_security_rule_is_not_broken_without_a_reason(path: Path) -> None:
    """Where a line is excused from one of ruff's security rules, it says why; no rule is excused as a whole."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not re.search(r"# noqa(?!:)|# ruff: noqa|# type: ignore(?!\[)|# nosec", text)
    for excused in re.findall(r"# noqa: (?:[A-Z]+[0-9]+, ?)*S[0-9]+[^\n]*", text):
        assert re.search(r"S[0-9]+(?: - | \()\w+", excused), excused
