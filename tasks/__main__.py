"""Run a stage, or check the parameters of all stages: `python -m tasks STAGE`, `python -m tasks --check [FILE ...]`.

Modules that need the project's packages are imported inside `stage.run`, so that signals during these imports, which
take seconds, and a Python without the packages end the process with the exit codes of a stage.
"""

import argparse
import importlib
import sys
from collections.abc import Collection, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from transfer.runtime import paths, stage
from transfer.runtime.errors import ParamsError

SLOW = ("keras", "matplotlib", "scipy", "sklearn", "tensorflow")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage or the check that the arguments name, and exit."""
    options = _parser().parse_args(arguments)
    if options.stage is None:
        hide_slow_packages()
    stage.run(partial(check, options.check) if options.stage is None else partial(run, options.stage))


class _Absent(type):
    """The type of a class that stands for anything in a package: each attribute that it lacks is the class itself."""

    def __getattr__(cls, _: str) -> "_Absent":
        return cls


class _StandIns(MetaPathFinder, Loader):
    """Finds a stand-in for each module of some packages; all that is imported from it is one class."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages, self._absent = packages, _Absent("Absent", (), {})

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] in self._packages else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda _: self._absent


def hide_slow_packages() -> None:
    """Give the modules of this process stand-ins for packages whose imports take seconds.

    Parameters are checked without a call of them; modules need their names for annotations and subclasses. A package
    that is not installed gets none, so that its import fails as ever.
    """
    sys.meta_path.insert(0, _StandIns([name for name in SLOW if find_spec(name)]))


def run(name: str) -> None:
    """Import a stage and run it; fail if one of its dependencies changes meanwhile."""
    with stage.packages_required():
        from transfer.runtime import dependencies  # noqa: PLC0415 - it needs packages

    with dependencies.unchanged(name):
        with stage.packages_required():
            module = importlib.import_module(f"tasks.{name}")
        module.main()


def stages() -> list[str]:
    """Return the names of all stages, which are those of this package's modules."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def sections() -> dict[str, type[Any]]:
    """Return the model of each section of params.yaml: that of each stage, and that of promotion, which is no stage."""
    from transfer.evaluation import promotion_rule  # noqa: PLC0415 - it needs packages

    of_stages = {name: importlib.import_module(f"tasks.{name}").Params for name in stages()}
    return {**of_stages, promotion_rule.SECTION: promotion_rule.Params}


def check(files: Sequence[Path]) -> None:
    """Check every section of some files of parameters, or of params.yaml if none is given.

    Raises:
        ParamsError: the message has a line for each mistake in any file, after the file's name if files are given.
    """
    mistakes = [f"{file}: {mistake}" for file in files for mistake in mistakes_in(file)]
    if not files:
        mistakes = mistakes_in(paths.PARAMS)
    if mistakes:
        raise ParamsError("\n".join(mistakes))


def mistakes_in(file: Path) -> list[str]:
    """Return a message for each mistake in a file of parameters."""
    with stage.packages_required():
        from transfer.runtime import params  # noqa: PLC0415 - it needs packages

        known = sections()
    try:
        document = params.read(file)
    except ParamsError as error:
        return [str(error)]
    names = ", ".join(f"`{name}`" for name in known)
    mistakes = [f"`{name}` is not a section; there are {names}." for name in document if name not in known]
    for name, section in known.items():
        try:
            params.parse(name, document.get(name), section, file=file)
        except ParamsError as error:
            mistakes += str(error).splitlines()
    return mistakes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks", description="Run a stage, or check all parameters.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("stage", nargs="?", choices=stages(), metavar="STAGE", help=f"one of {', '.join(stages())}")
    action.add_argument(
        "--check", nargs="*", type=Path, metavar="FILE", help="files like params.yaml, which is the default"
    )
    return parser


if __name__ == "__main__":
    main()
