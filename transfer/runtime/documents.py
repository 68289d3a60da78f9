"""Documents: read YAML files within limits, so that no file takes more than seconds or gigabytes."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from transfer.runtime.errors import ParamsError

MAX_BYTES = 1 << 16
MAX_DEPTH = 50  # nested lists and mappings
MAX_ALIASES = 20
MAX_VALUES = 20_000  # with aliases replaced by their content
SHOWN = 200  # characters of a value in a message

_ALIAS = re.compile(rb"(?:^|[\s,:\[{])\*[^\s,\]}]", re.MULTILINE)


def read(file: Path, *, comments: bool = False) -> object:
    """Read a YAML file.

    Args:
        file: the file.
        comments: keep comments and layout, so that the document can be written again.

    Raises:
        FileNotFoundError: the file does not exist.
        ParamsError: the file is not YAML, or exceeds a limit of this module.
    """
    content = _content(file)
    yaml = YAML() if comments else YAML(typ="safe", pure=True)
    try:
        document: Any = yaml.load(content)
        values = _count(document, {}, depth=0)
    except RecursionError:
        raise _too_deep(file) from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
        raise ParamsError(f"{file} must be readable YAML. Received: {_lines(str(error))}") from None
    if values > MAX_VALUES:
        raise ParamsError(f"{file} must have at most {MAX_VALUES} values. Received: {values}, with aliases replaced.")
    return document


def shown(value: object) -> str:
    """Return a value as Python writes it, cut to `SHOWN` characters."""
    try:
        return cut(repr(value))
    except ValueError:  # Python refuses to write numbers of more than 4300 digits
        return "a number of more than 4300 digits"


def cut(text: str) -> str:
    """Return a text, cut to `SHOWN` characters."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _content(file: Path) -> bytes:
    """Return a file's bytes, checked for size, nesting and aliases, on which a parser spends seconds or hours."""
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ParamsError(f"{file} must have at most {MAX_BYTES} bytes. Received: more. Shorten it.")
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", content):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _too_deep(file)
    aliases = len(_ALIAS.findall(content))
    if aliases > MAX_ALIASES:
        raise ParamsError(f"{file} must have at most {MAX_ALIASES} aliases. Received: {aliases}. Write values out.")
    return content


def _count(value: object, counted: dict[int, int], *, depth: int) -> int:
    """Return the number of values in a document with aliases replaced; each object is visited once.

    Raises:
        RecursionError: the document is nested too deeply, or contains itself.
    """
    if depth > MAX_DEPTH:
        raise RecursionError
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counted:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_count(part, counted, depth=depth + 1) for part in parts)
    return counted[id(value)]


def _too_deep(file: Path) -> ParamsError:
    return ParamsError(f"{file} must have at most {MAX_DEPTH} nested lists and mappings. Received: more.")


def _lines(text: str) -> str:
    return "\n".join(map(cut, text.splitlines()))
