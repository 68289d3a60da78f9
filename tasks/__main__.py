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
    mistakes = []
    for name in sorted(module.name for module in pkgutil.iter_modules(tasks.__path__) if module.name != "__main__"):
        try:
            params.load(name, importlib.import_module(f"tasks.{name}").Params)
        except ParamsError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ParamsError("\n".join(mistakes))


if __name__ == "__main__":
    stage.run(main)
