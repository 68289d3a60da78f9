import io

import pytest
from ruamel.yaml import YAML

from flows import sandbox
from transfer.runtime.errors import ParamsError


def test_changed_params_keep_their_place_and_comments() -> None:
    """Only the given values change; the others, the order and the comments stay."""
    yaml, text = YAML(), io.StringIO()
    values = yaml.load("a:\n  b: 1  # one\n  c: {d: 2, e: 3}\nf: 4\n")
    yaml.dump(sandbox.merged(values, {"a": {"b": 5, "c": {"e": 6}}}), text)
    assert text.getvalue() == "a:\n  b: 5  # one\n  c: {d: 2, e: 6}\nf: 4\n"


def test_a_value_in_the_place_of_a_section_is_refused() -> None:
    """A value where a section is expected is an error with a message."""
    with pytest.raises(ParamsError, match=r"must have a section with epochs\. Received: 3"):
        sandbox.merged({"train_head": {"training": 3}}, {"train_head": {"training": {"epochs": 4}}})
