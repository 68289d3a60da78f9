from collections.abc import Iterator

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL

from flows import credentials


@pytest.fixture(autouse=True)
def _nothing_set(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has no credentials, and the server has no block."""
    assert PREFECT_API_URL.value() == prefect_server
    for variable in credentials.VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def block() -> Iterator[str]:
    """A Secret block for Kaggle's token; its name."""
    name = credentials.block("KAGGLE_API_TOKEN")
    Secret(value="from the block").save(name)
    yield name
    Secret.delete(name)


def test_without_variables_there_are_no_credentials() -> None:
    """Without variables and blocks there are no credentials, and no error."""
    assert credentials.read() == {}


def test_a_block_replaces_a_variable(block: str) -> None:
    """A Secret block on the server, with the variable's name in dashes, gives the variable its value."""
    assert block == "kaggle-api-token"
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the block"}


@pytest.mark.usefixtures("block")
def test_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable takes precedence over its block unless it is blank; line ends are stripped."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "from the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key\n")
    monkeypatch.setenv("KAGGLE_KEY", " \n")
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the environment", "AWS_SECRET_ACCESS_KEY": "a key"}
    monkeypatch.setenv("KAGGLE_API_TOKEN", "")
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the block", "AWS_SECRET_ACCESS_KEY": "a key"}
