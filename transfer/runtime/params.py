"""Params: read and check params.yaml, which has a section for each stage."""

from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from transfer.runtime import paths
from transfer.runtime.errors import ParamsError


class Section(BaseModel):
    """A section of params.yaml, without unknown keys, type conversions or defaults."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def load(stage: str, section: type[SectionT]) -> SectionT:
    """Read and check a stage's section of params.yaml.

    Raises:
        ParamsError: the file is missing or not YAML, or `parse` rejects the section.
    """
    return parse(stage, read().get(stage), section)


def sections() -> list[str]:
    """Return the names of all sections in params.yaml.

    Raises:
        ParamsError: the file is missing or not YAML.
    """
    return [str(name) for name in read()]


def read(file: Path = paths.PARAMS, *, comments: bool = False) -> dict[str, Any]:
    """Read a file of sections without checking their values.

    Args:
        file: a YAML file.
        comments: keep comments and layout, so that the file can be written again.

    Raises:
        ParamsError: the file is missing, not YAML, or not a mapping of sections.
    """
    yaml = YAML() if comments else YAML(typ="safe", pure=True)
    try:
        document = yaml.load(file)
    except FileNotFoundError:
        raise ParamsError(f"{file} is missing. Run from the folder that holds dvc.yaml.") from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
        raise ParamsError(f"{file} must be readable YAML. Received: {error}") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{file} must hold sections, each under its name. Received: {document!r}")
    return document


def parse(stage: str, values: object, section: type[SectionT], *, file: Path = paths.PARAMS) -> SectionT:
    """Check the values of one section.

    Args:
        stage: the section's name.
        values: the section's content.
        section: the model that the content must match.
        file: the file that holds the section, for messages.

    Raises:
        ParamsError: a parameter is missing, unknown or not allowed. The message has a line for each, with its name,
            what is allowed and what was received.
    """
    if not isinstance(values, dict):
        raise ParamsError(f"{file} needs a section `{stage}` with {_fields(section)}. Received: {values!r}")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(_sentence(stage, detail, section, file) for detail in error.errors())) from None


def _sentence(stage: str, detail: ErrorDetails, section: type[Section], file: Path) -> str:
    name = ".".join([stage, *map(str, detail["loc"])])
    match detail["type"]:
        case "missing":
            return f"`{name}` is missing from {file}."
        case "extra_forbidden" | "invalid_key":
            parent = name.rpartition(".")[0]
            known = _fields(_at(section, detail["loc"][:-1]))
            return f"`{name}` is not a parameter; `{parent}` has {known}. Received: {detail['input']!r}"
        case "model_type":
            return (
                f"`{name}` must be a section with {_fields(_at(section, detail['loc']))}. Received: {detail['input']!r}"
            )
        case "value_error":
            return f"`{name}`: {detail['ctx']['error']}"
        case _:
            reason = detail["msg"].removeprefix("Input should be ")
            return f"`{name}` must be {reason}. Received: {detail['input']!r}"


def _at(section: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the innermost model on the way to a location within a section."""
    for part in location:
        field = section.model_fields.get(str(part))
        known = field and next(filter(_is_section, (field.annotation, *get_args(field.annotation))), None)
        if known is None:
            return section
        section = known
    return section


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(section: type[BaseModel]) -> str:
    return ", ".join(f"`{name}`" for name in section.model_fields) or "nothing in it"
