"""Run a stage of baselines/dvc.yaml: `python -m baselines train MODEL`, `python -m baselines compare`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

STAGES = ("train", "measure_extraction", "compare")
CONFIG_ERROR = 78  # as `ParamsError.exit_code`, whose module may need packages that are missing


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage that the arguments name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        work = _main_of(options.stage, options.model, parser)
        from transfer.runtime import stage  # noqa: PLC0415 - it needs packages that may be missing
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("baselines", "transfer"):
            raise
        print(
            f"Stages need a Python with the project's packages. Received: {sys.executable}, without `{error.name}`. "
            "Run `make install` and `. .venv/bin/activate`, then try again.",
            file=sys.stderr,
        )
        sys.exit(CONFIG_ERROR)
    stage.run(work)


def _main_of(stage: str, model: str | None, parser: argparse.ArgumentParser) -> Callable[[], None]:
    module = importlib.import_module(f"baselines.{stage}")
    if stage == "train":
        if model not in module.models.FROM_SCRATCH:
            parser.error(f"MODEL must be one of {', '.join(module.models.FROM_SCRATCH)}. Received: {model}")
        return partial(module.main, model)
    if model is not None:
        parser.error(f"Only `train` takes a MODEL. Received: {model}")
    work: Callable[[], None] = module.main
    return work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baselines", description="Run a stage of baselines/dvc.yaml.")
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="for `train`: a section of baselines/params.yaml")
    return parser


if __name__ == "__main__":
    main()
