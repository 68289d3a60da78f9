"""Check the params of every stage at once, before the first of them spends an hour: `python -m tasks`."""

import importlib
import pkgutil

import tasks
from transfer import params, stage
from transfer.errors import ParamsError


def main() -> None:
    """Load each stage's section of params.yaml.

    Raises:
        ParamsError: with what is wrong in all of the sections.
    """
    stages = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__) if module.name != "__main__")
    mistakes = [
        f"`{name}` is not a stage; there are {', '.join(f'`{stage}`' for stage in stages)}."
        for name in params.sections()
        if name not in stages
    ]
    for name in stages:
        try:
            params.load(name, importlib.import_module(f"tasks.{name}").Params)
        except ParamsError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ParamsError("\n".join(mistakes))


if __name__ == "__main__":
    stage.run(main)
