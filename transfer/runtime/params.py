"""Params: read and check params.yaml, which has a section for each stage."""

from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from transfer.runtime import documents, numbers, paths
from transfer.runtime.documents import cut, shown
from transfer.runtime.errors import ParamsError

_LISTED = 20  # mistakes in a message
_EXCLUSIVE = ("greater_than", "less_than", "finite_number")  # errors that rounding to a limit causes


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
        ParamsError: the file is missing, not YAML, too large, or not a mapping of sections.
    """
    try:
        document = documents.read(file, comments=comments)
    except FileNotFoundError:
        raise ParamsError(f"{file} is missing. Run from the folder that holds dvc.yaml.") from None
    if not isinstance(document, dict):
        raise ParamsError(f"{file} must hold sections, each under its name. Received: {shown(document)}")
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
        raise ParamsError(f"{file} needs a section `{stage}` with {_fields(section)}. Received: {shown(values)}")
    mistakes = [
        f"`{_name(stage, location)}` must be at most {numbers.MAX_INTEGER} in magnitude. Received: {shown(value)}"
        for location, value in numbers.too_large(values)
    ]
    try:
        if not mistakes:
            checked = section.model_validate(values)
            mistakes = _rounding_mistakes(stage, values, section)
    except ValidationError as error:
        mistakes = [_sentence(stage, detail, section, file) for detail in error.errors()]
    if mistakes:
        more = [f"{len(mistakes) - _LISTED} more mistakes follow."] * (len(mistakes) > _LISTED)
        raise ParamsError("\n".join(mistakes[:_LISTED] + more))
    return checked


def _rounding_mistakes(stage: str, values: dict[str, Any], section: type[Section]) -> list[str]:
    """Return a message for each number that is allowed, but not after TensorFlow has rounded it."""
    try:
        section.model_validate(numbers.in_single_precision(values))
    except ValidationError as error:
        return [
            f"`{_name(stage, detail['loc'])}` must be {detail['msg'].removeprefix('Input should be ')}, also after "
            f"rounding to single precision. Received: {shown(numbers.value_at(values, detail['loc']))}"
            for detail in error.errors()
            if detail["type"] in _EXCLUSIVE
        ]
    return []


def _name(stage: str, location: tuple[int | str, ...]) -> str:
    return cut(".".join([stage, *map(str, location)]))


def _sentence(stage: str, detail: ErrorDetails, section: type[Section], file: Path) -> str:
    name = _name(stage, detail["loc"])
    match detail["type"]:
        case "missing":
            return f"`{name}` is missing from {file}."
        case "extra_forbidden" | "invalid_key":
            parent = name.rpartition(".")[0]
            known = _fields(_at(section, detail["loc"][:-1]))
            return f"`{name}` is not a parameter; `{parent}` has {known}. Received: {shown(detail['input'])}"
        case "model_type":
            known = _fields(_at(section, detail["loc"]))
            return f"`{name}` must be a section with {known}. Received: {shown(detail['input'])}"
        case "value_error":
            return f"`{name}`: {detail['ctx']['error']}"
        case _:
            reason = detail["msg"].removeprefix("Input should be ")
            return f"`{name}` must be {reason}. Received: {shown(detail['input'])}"


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
