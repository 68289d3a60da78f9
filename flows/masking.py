"""Masking: replace secrets in lines of output, also if they are URL-encoded, in base64, or split over two lines."""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus

MASK = "********"
_SHORTEST = 4  # characters of each part of a secret that is split over two lines
_SHORTEST_ENCODED = 6  # characters of a secret that is looked for in base64


def masked(line: str, secrets: Iterable[str]) -> str:
    """Return a line with every secret in it, and every line of a longer secret, replaced by asterisks."""
    for form in _forms(tuple(secrets)):
        line = re.sub(re.escape(form), MASK, line) if "%" not in form else _without_case_of_hex(form).sub(MASK, line)
    return line


def masked_lines(lines: Iterable[str], secrets: Iterable[str]) -> Iterator[str]:
    """Yield lines with the secrets replaced, also those that begin in one line and end in the next.

    A line that ends with the beginning of a secret waits for the next one; other lines are yielded at once.
    """
    values = tuple(secrets)
    waiting: str | None = None
    for line in lines:
        current = masked(line, values)
        if waiting is not None:
            before, current = _split_masked(waiting, current, values)
            yield before
        waiting = current if _beginnings(current, values) else None
        if waiting is None:
            yield current
    if waiting is not None:
        yield waiting


def _split_masked(line: str, following: str, secrets: tuple[str, ...]) -> tuple[str, str]:
    """Return two lines, with a secret replaced that begins at the end of the first and ends in the second."""
    text = following.lstrip()
    for beginning, rest in _beginnings(line, secrets):
        if text.startswith(rest):
            indent = following[: len(following) - len(text)]
            return line.rstrip()[: -len(beginning)] + MASK, indent + MASK + text[len(rest) :]
    return line, following


def _beginnings(line: str, secrets: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the beginnings of secrets with which a line ends, longest first, and the rest of each secret."""
    text = line.rstrip()
    lengths = ((form, n) for form in _forms(secrets) for n in range(len(form) - _SHORTEST, _SHORTEST - 1, -1))
    found = [(form[:n], form[n:]) for form, n in lengths if text.endswith(form[:n])]
    return sorted(found, key=lambda parts: len(parts[0]), reverse=True)


@lru_cache(maxsize=8)
def _forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts to replace, longest first, as one secret may be part of another."""
    parts = {part.strip() for secret in secrets for part in secret.splitlines()} - {""}
    urls = {encode(part) for part in parts for encode in (quote, quote_plus, lambda text: quote(text, safe=""))}
    urls |= {quote(url, safe="") for url in urls}  # an address in an address
    texts = {encode(part) for part in parts for encode in (html.escape, _in_json, lambda text: text.encode().hex())}
    texts |= {text.replace("/", "\\/") for text in texts}  # as some programs write JSON
    encoded = {form for secret in {*parts, *secrets} if len(secret) >= _SHORTEST_ENCODED for form in _in_base64(secret)}
    return tuple(sorted(parts | urls | texts | encoded, key=len, reverse=True))


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_base64(secret: str) -> set[str]:
    """Return the texts of which one is in the base64 of any text with the secret in it.

    Base64 writes three bytes as four characters. So the secret has three forms, by its place in the text; the
    characters at either end that depend on the text around it are left out.
    """
    content = secret.encode()
    forms = set()
    for shift in range(3):
        code = base64.b64encode(bytes(shift) + content).decode().rstrip("=")
        first, last = (0, 2, 3)[shift], (len(content) + shift) * 8 // 6
        forms |= {code[first:last], code[first:last].replace("+", "-").replace("/", "_")}
    return forms


def _without_case_of_hex(form: str) -> re.Pattern[str]:
    """Return a pattern of a URL-encoded text with hexadecimal digits in either case."""
    parts = re.split(r"(%[0-9A-F]{2})", form)
    return re.compile("".join(f"(?i:{part})" if index % 2 else re.escape(part) for index, part in enumerate(parts)))
