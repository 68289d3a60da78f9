import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from transfer.runtime import users
from transfer.runtime.errors import AccessError


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the user of this process one without a name, a home and variables."""

    def missing(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("unnamed")
def test_a_user_without_a_name_is_told_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a name alone the home is still missing; with both there is no error."""
    with pytest.raises(AccessError, match=f"user id {os.getuid()}, .* `export USER=me HOME=/tmp`"):
        users.check()
    monkeypatch.setenv("USER", "me")
    with pytest.raises(AccessError):
        users.check()
    monkeypatch.setenv("HOME", "/nowhere")
    users.check()


@pytest.mark.usefixtures("unnamed")
def test_an_error_of_a_library_is_recognised() -> None:
    """A library that asks for the home or the name fails in its own way; other errors are no matter of the user."""
    with pytest.raises(RuntimeError) as caught:
        Path("~/.kaggle").expanduser()
    assert users.is_user_error(caught.value)
    assert users.is_user_error(KeyError("getpwuid(): uid not found: 54321"))
    assert users.is_user_error(OSError("No username set in the environment"))
    assert not any(map(users.is_user_error, (KeyError("cat"), RuntimeError("cat"), OSError(2, "cat"))))
