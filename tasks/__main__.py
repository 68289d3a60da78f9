"""Run a stage, or check the parameters of all: `python -m tasks STAGE`, `python -m tasks --check [FILE ...]`.

This module owns what stages share as processes: signals, exit codes, and what a Python without the project's packages
is told.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transfer.runtime import signals

CONFIG_ERROR = (
    78  # as `ParamsError.exit_code`; that module may be imported only once the packages are known to be there
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments name as this process's whole work."""
    signals.exit_on_signals()
    given = _parser().parse_args(arguments)
    try:
        work = partial(check, given.check) if given.stage is None else _main_of(given.stage)
        from transfer.runtime import stage  # noqa: PLC0415 - it needs packages that may be missing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("tasks", "transfer"):
            raise
        print(
            f"Stages need a Python with the project's packages. Received: {sys.executable}, without `{error.name}`. "
            "Run `make install` and `. .venv/bin/activate`, then try again.",
            file=sys.stderr,
        )
        sys.exit(CONFIG_ERROR)
    stage.run(work)


def stages() -> list[str]:
    """The names of all stages, which are those of this package's modules."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def check(files: Sequence[Path]) -> None:
    """Load every section of some files of parameters; of params.yaml, if none is named.

    Raises:
        ParamsError: the message has a line for each mistake in any of them, behind the file's name where files are
            named.
    """
    from transfer.runtime import paths  # noqa: PLC0415 - as in `main`
    from transfer.runtime.errors import ParamsError  # noqa: PLC0415 - likewise

    mistakes = [f"{file}: {mistake}" for file in files for mistake in mistakes_in(file)]
    if not files:
        mistakes = mistakes_in(paths.PARAMS)
    if mistakes:
        raise ParamsError("\n".join(mistakes))


def mistakes_in(file: Path) -> list[str]:
    """A message for each mistake in a file of parameters, whatever its section."""
    from transfer.runtime import params  # noqa: PLC0415 - as in `main`
    from transfer.runtime.errors import ParamsError  # noqa: PLC0415 - likewise

    known = stages()
    try:
        document = params.read(file)
    except ParamsError as error:
        return [str(error)]
    mistakes = [
        f"`{name}` is not a stage; there are {', '.join(f'`{stage}`' for stage in known)}."
        for name in document
        if name not in known
    ]
    for name in known:
        try:
            params.parse(name, document.get(name), importlib.import_module(f"tasks.{name}").Params, file=file)
        except ParamsError as error:
            mistakes += str(error).splitlines()
    return mistakes


def _main_of(stage: str) -> Callable[[], None]:
    work: Callable[[], None] = importlib.import_module(f"tasks.{stage}").main
    return work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks", description="Run a stage, or check all parameters.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("stage", nargs="?", choices=stages(), metavar="STAGE", help=f"one of {', '.join(stages())}")
    what.add_argument(
        "--check",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="files like params.yaml, which is checked if none is named",
    )
    return parser


if __name__ == "__main__":
    main()
