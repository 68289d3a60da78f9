import time
from pathlib import Path

import pytest

from transfer.runtime import documents
from transfer.runtime.errors import ParamsError

ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 2)}]" for n in range(1, 40))
FEW_ALIASES = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 11))
MERGES = "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, 30))

NAMES = "brackets braces just-too-deep dashes questions blocks large aliases merges expanded key"


@pytest.mark.reliability(
    "tampered",
    "a params.yaml with nested brackets, aliases that multiply, or megabytes of text",
    "exit 78 within 5 s; values in the message are cut to 200 characters",
)
@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: " + "[" * 60_000, "at most 50 nested"),
        ("a: " + "{" * 60_000, "at most 50 nested"),
        ("a: " + "[" * 51 + "]" * 51, "at most 50 nested"),
        ("a:\n" + "- " * 20_000, "at most 50 nested"),
        ("? " * 20_000, "at most 50 nested"),
        ("".join(" " * n + "k:\n" for n in range(200)), "at most 50 nested"),
        ("a: " + "x" * 10_000_000, "at most 65536 bytes"),
        (f"a0: &a0 [1, 2]\n{ALIASES}", "at most 20 aliases"),
        (f"a0: &a0 {{k0: 1}}\n{MERGES}", "at most 20 aliases"),
        (f"a0: &a0 [{'1, ' * 100}1]\n{FEW_ALIASES}", "at most 20000 values"),
        (f"{'k' * 10_000}: 1\n{'k' * 10_000}: 1\n", "must be readable YAML"),
    ],
    ids=NAMES.split(),
)
def test_a_hostile_file_is_rejected_within_seconds(
    tmp_path: Path, content: str, message: str, *, comments: bool
) -> None:
    """The message names the limit, and has no more of the file than a few lines of 200 characters."""
    file = tmp_path / "params.yaml"
    file.write_text(content)
    start = time.process_time()
    with pytest.raises(ParamsError, match=message) as caught:
        documents.read(file, comments=comments)
    assert time.process_time() - start < 5
    assert max(map(len, str(caught.value).splitlines())) < 400
    assert len(str(caught.value)) < 2000


def test_an_ordinary_file_may_have_anchors(tmp_path: Path) -> None:
    """Anchors, aliases, merge keys, brackets in texts and asterisks in comments are no reason for a refusal."""
    file = tmp_path / "params.yaml"
    file.write_text("a: &a {x: 1}\nb: {<<: *a, y: '[*'} # *\nc: *a\n")
    assert documents.read(file) == {"a": {"x": 1}, "b": {"x": 1, "y": "[*"}, "c": {"x": 1}}


@pytest.mark.parametrize(
    ("value", "text"),
    [("x" * 300, "'" + "x" * 198 + "…"), ([1], "[1]"), (16**5000, "a number")],
    ids=["text", "list", "number"],
)
def test_a_value_is_cut(value: object, text: str) -> None:
    """A value in a message has at most 200 characters."""
    assert documents.shown(value).startswith(text)
    assert len(documents.shown(value)) <= 200


def test_a_document_that_contains_itself_is_rejected(tmp_path: Path) -> None:
    """A mapping without an end is refused like one that is nested too deeply."""
    (tmp_path / "params.yaml").write_text("a: &a {b: *a}")
    with pytest.raises(ParamsError, match="at most 50 nested"):
        documents.read(tmp_path / "params.yaml")
