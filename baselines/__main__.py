"""Run a stage of baselines/dvc.yaml: `python -m baselines train MODEL`, `python -m baselines compare`."""

import argparse
import importlib
from collections.abc import Sequence
from functools import partial

from transfer.runtime import stage

STAGES = ("train", "measure_extraction", "compare")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage that the arguments name, and exit."""
    options = _parser().parse_args(arguments)
    stage.run(partial(run, options.stage, options.model))


def run(name: str, model: str | None) -> None:
    """Import a stage and run it.

    Args:
        name: the stage.
        model: the model to train; only the stage `train` needs one.
    """
    with stage.packages_required():
        module = importlib.import_module(f"baselines.{name}")
    if name != "train":
        module.main()
    elif model in module.models.FROM_SCRATCH:
        module.main(model)
    else:
        _parser().error(f"MODEL must be one of {', '.join(module.models.FROM_SCRATCH)}. Received: {model}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m baselines", description="Run a stage of baselines/dvc.yaml.")
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"one of {', '.join(STAGES)}")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="for `train`: a section of baselines/params.yaml")
    return parser


if __name__ == "__main__":
    main()
