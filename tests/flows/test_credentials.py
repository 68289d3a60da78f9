from collections.abc import Iterator

import pytest
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL

from flows import credentials


@pytest.fixture(autouse=True)
def _nothing_set(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment holds no credentials, and the server no block."""
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


def test_nothing_set_is_nothing() -> None:
    """Without variables and without blocks there are no credentials, and that is no error."""
    assert credentials.read() == {}


def test_a_block_stands_for_a_variable(block: str) -> None:
    """A Secret block on the server, under the variable's name with dashes, is what the stage gets."""
    assert block == "kaggle-api-token"
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the block"}


@pytest.mark.usefixtures("block")
def test_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set overrules the block, one that is set to nothing does not; line ends are no part of it."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "from the environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key\n")
    monkeypatch.setenv("KAGGLE_KEY", " \n")
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the environment", "AWS_SECRET_ACCESS_KEY": "a key"}
    monkeypatch.setenv("KAGGLE_API_TOKEN", "")
    assert credentials.read() == {"KAGGLE_API_TOKEN": "from the block", "AWS_SECRET_ACCESS_KEY": "a key"}
