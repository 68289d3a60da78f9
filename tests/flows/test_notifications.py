import os

import pytest

from flows import notifications
from transfer.runtime.errors import ParamsError


@pytest.mark.parametrize(
    "text", ["secret", "ftp://example.org/secret", "https:///secret", "https://a:x/secret", "https://a/ secret"]
)
def test_another_text_than_an_address_is_not_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is no address of a webhook is refused by a message that does not have it."""
    monkeypatch.setenv(notifications.VARIABLE, text)
    with pytest.raises(ParamsError, match=r"https://example.org/hook. Received: another text in the variable") as error:
        notifications.take_address()
    assert "secret" not in str(error.value).removesuffix("as addresses contain secrets.")


def test_child_processes_do_not_get_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is taken out of the environment; an empty one counts as none."""
    monkeypatch.setenv(notifications.VARIABLE, " https://example.org/hook\n")
    assert notifications.take_address() == "https://example.org/hook"
    assert notifications.VARIABLE not in os.environ
    monkeypatch.setenv(notifications.VARIABLE, " ")
    assert notifications.take_address() is None
