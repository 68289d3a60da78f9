"""Run a stage of baselines/dvc.yaml: `python -m baselines train MODEL`, `python -m baselines compare`.

Modules that need the project's packages are imported inside `stage.run`, as in `tasks`.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transfer.runtime import stage

STAGES = ("train", "measure_extraction", "compare", "learn_digits")
DVC_FILE = Path("baselines/dvc.yaml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage that the arguments name, and exit."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.model is not None and options.stage != "train":
        parser.error(f"Only `train` takes a MODEL. Received: {options.model}")
    stage.run(partial(run, options.stage, options.model, parser))


def run(name: str, model: str | None, parser: argparse.ArgumentParser) -> None:
    """Import a stage and run it; fail if one of its dependencies changes meanwhile."""
    with stage.packages_required():
        from transfer.runtime import dependencies  # noqa: PLC0415 - it needs packages

    with dependencies.unchanged(name, file=DVC_FILE, item={"model": model} if model else None):
        with stage.packages_required():
            work = _main_of(name, model, parser)
        work()


def _main_of(name: str, model: str | None, parser: argparse.ArgumentParser) -> Callable[[], None]:
    module = importlib.import_module(f"baselines.{name}")
    if name == "train":
        if model not in module.models.FROM_SCRATCH:
            parser.error(f"MODEL must be one of {', '.join(module.models.FROM_SCRATCH)}. Received: {model}")
        return partial(module.main, model)
    work: Callable[[], None] = module.main
    return work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baselines", description="Run a stage of baselines/dvc.yaml.")
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="for `train`: a section of baselines/params.yaml")
    return parser


if __name__ == "__main__":
    main()
