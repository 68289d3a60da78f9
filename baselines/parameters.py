"""Parameters of the baselines: baselines/params.yaml, one section per stage and one per model."""

from pathlib import Path

from transfer.runtime import params

FILE = Path("baselines/params.yaml")


def load(name: str, section: type[params.SectionT]) -> params.SectionT:
    """Read and check one section of baselines/params.yaml.

    Args:
        name: a stage or a model.
        section: the class that describes the section.

    Raises:
        ParamsError: the file is missing or no YAML, or a value is not allowed.
    """
    return params.parse(name, params.read(FILE).get(name), section, file=FILE)
