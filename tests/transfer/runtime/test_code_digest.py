from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.runtime.code_digest import code_digest, imported_modules

ROOT = Path(__file__).parents[3]
ENTRY = '''"""What a stage does."""

import json

from package.wing import layers
from package.wing.losses import loss


class Network:
    """A network."""

    def build(self, units: int) -> str:
        """Build it."""
        return json.dumps([units, loss(), layers.WIDTH])
'''


@pytest.fixture(name="project")
def _project(tmp_path: Path) -> Path:
    modules = {
        "package/__init__.py": "",
        "package/entry.py": ENTRY,
        "package/wing/__init__.py": "",
        "package/wing/layers.py": "WIDTH = 3\n",
        "package/wing/losses.py": "def loss() -> int:\n    from package.wing import late\n    return late.ONE\n",
        "package/wing/late.py": "ONE = 1\n",
        "package/wing/unused.py": "OTHER = 1\n",
    }
    for name, content in modules.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path / "package"


def _replace(old: str, new: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        content = (package / "entry.py").read_text()
        assert old in content
        (package / "entry.py").write_text(content.replace(old, new))

    return change


def _append(name: str, text: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        with (package / name).open("a") as file:
            file.write(text)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _replace("import json\n", "import json  # a comment\n"),
        _replace('"""What a stage does."""', '"""What this stage does."""'),
        _replace('        """Build it."""\n', ""),
        _replace('    """A network."""\n', "    '''A network of three layers.'''\n"),
        _replace(
            "[units, loss(), layers.WIDTH]",
            "[\n            units,\n            loss(),\n            layers.WIDTH\n        ]",
        ),
        _append("wing/layers.py", "# a comment\n"),
        _append("wing/unused.py", "OTHER = 2\n"),
    ],
    ids=["comment", "docstring", "no docstring", "class docstring", "layout", "comment elsewhere", "not imported"],
)
def test_comments_docstrings_and_modules_that_are_not_imported_do_not_count(
    project: Path, change: Callable[[Path], None]
) -> None:
    """The digest stays the same if the code that runs stays the same."""
    expected = code_digest(project / "entry.py")
    change(project)
    assert code_digest(project / "entry.py") == expected


@pytest.mark.parametrize(
    "change",
    [
        _replace("[units, loss(), layers.WIDTH]", "[units, loss(), layers.WIDTH + 1]"),
        _append("wing/layers.py", "WIDTH = 4\n"),
        _append("wing/losses.py", "loss = int\n"),
        _append("wing/late.py", "ONE = 2\n"),
    ],
    ids=["module", "imported by name", "imported function", "imported within a function"],
)
def test_a_change_of_imported_code_changes_the_digest(project: Path, change: Callable[[Path], None]) -> None:
    """The code of the module and of all that it imports counts, directly or not."""
    before = code_digest(project / "entry.py")
    change(project)
    assert code_digest(project / "entry.py") != before


@pytest.mark.parametrize(
    ("stage", "unused"), [("train_head", {"calibration.py", "inference.py"}), ("fine_tune", set[str]())]
)
def test_a_training_stage_reaches_its_network_data_and_seeds(stage: str, unused: set[str]) -> None:
    """Everything that decides a result counts; evaluation, prediction, sources and other stages do not."""
    training = {path.name for path in (ROOT / "transfer/training").glob("[a-z]*.py")} - unused
    modules = {path.relative_to(ROOT).as_posix() for path in imported_modules(ROOT / f"tasks/{stage}.py")}
    assert modules >= {
        f"tasks/{stage}.py",
        "transfer/features/dataset.py",
        "transfer/features/store.py",
        "transfer/images/manifest.py",
        "transfer/network/backend.py",
        "transfer/network/saving.py",
        "transfer/network/vgg16.py",
        "transfer/runtime/seeding.py",
        *(f"transfer/training/{name}" for name in training),
    }
    assert {name.partition("/")[0] for name in modules} == {"tasks", "transfer"}
    assert not [name for name in modules if name.split("/")[1] in ("sources", "evaluation", "prediction")]
    assert len([name for name in modules if name.startswith("tasks/")]) == 1
