import os
from pathlib import Path

import pytest

from transfer.runtime.errors import DataError
from transfer.sources import kaggle_client
from transfer.sources.http_errors import TransientError

CALL = kaggle_client.Call("dogs-vs-cats", credentials="Provide a token.", hint="Or an inbox.", timeout=20)


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("client", "error", "message"),
    [
        ("raise ConnectionError('secret')", TransientError, "ConnectionError"),
        ("raise TypeError('secret')", DataError, "TypeError"),
        ("import kaggle.gone", DataError, "ModuleNotFoundError"),
        ("import os; os._exit(0)", TransientError, "gave no answer"),
        ("import os; print('hello', flush=True); os._exit(0)", TransientError, "gave no answer"),
        ("import os; print('{}', flush=True); os._exit(0)", TransientError, "no URL"),
        ("import os; os._exit(3)", DataError, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", TransientError, "signal 9"),
    ],
)
def test_every_failure_of_the_client_has_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, error: type[Exception], message: str
) -> None:
    """Every failure of Kaggle's client is one line without the token, and transient only if a retry may help."""
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "__init__.py").write_text(client)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    with pytest.raises(error, match=message) as caught:
        kaggle_client.archive_url(CALL)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_client_is_that_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file `kaggle.py` in the user's folder is not run, and a message may begin with dashes."""
    client, here = tmp_path / "client" / "kaggle", tmp_path / "here"
    for folder in (client, here):
        folder.mkdir(parents=True)
    program = """
from types import SimpleNamespace
def submit(file, message, *_, **__): return SimpleNamespace(message={}, ref=1)
api = SimpleNamespace(authenticate=print, competition_submit=submit)
"""
    (client / "__init__.py").write_text(program.format("message"))
    (here / "kaggle.py").write_text(program.format("'of the folder'"))
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(client.parent))
    assert kaggle_client.submit(CALL, Path("submission.csv"), "--first") == "--first"
