import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Fault, StandIn, serve
from transfer.runtime.errors import AccessError, DataError, NetworkError, StageError
from transfer.sources.http import RetryPolicy
from transfer.sources.kaggle import PAGE, RULES, download, has_credentials

BODY = bytes(range(256)) * 8_000
QUICK = RetryPolicy(tries=3, first_wait=0.01, longest_wait=5, connect=10, silence=5)
RIGHT = Fault()  # Kaggle's client itself asks for the archive once and leaves its body


@pytest.fixture(name="home", autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


@pytest.fixture(name="kaggle")
def _kaggle(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serve(BODY) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def test_archive_arrives_through_kaggles_client(kaggle: StandIn, tmp_path: Path) -> None:
    """Kaggle's own client signs in, and the archive it points to arrives."""
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY
    asked = [request for request in kaggle.requests if request.path.endswith("/DownloadDataFiles")]
    assert asked[0].headers["Authorization"].startswith("Bearer ")


def test_token_goes_to_kaggle_alone(kaggle: StandIn, tmp_path: Path) -> None:
    """The token is not sent to where the archive is stored."""
    download(tmp_path / "archive.zip", QUICK)
    assert kaggle.gets
    assert not any("Authorization" in request.headers for request in kaggle.gets)


@pytest.mark.reliability(
    "network", "connection cut, then 503, then another run", "no byte of an error page is taken; the right file arrives"
)
def test_cut_archive_is_resumed(kaggle: StandIn, tmp_path: Path) -> None:
    """A cut, an error page and a new run with a new address give the right bytes and ask for the missing ones."""
    kaggle.faults = [RIGHT, Fault(cut_after=20 << 16), *[Fault(status=503, body=b"sorry")] * 2]
    with pytest.raises(NetworkError):
        download(tmp_path / "archive.zip", QUICK._replace(tries=2))
    download(tmp_path / "archive.zip", QUICK)
    assert kaggle.gets[-1].headers["Range"] == f"bytes={20 << 16}-"
    assert (tmp_path / "archive.zip").read_bytes() == BODY


def test_archive_that_lies_there_needs_no_account(
    kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched whole is used without credentials or requests."""
    download(tmp_path / "archive.zip", QUICK)
    before = len(kaggle.requests)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    download(tmp_path / "archive.zip", QUICK)
    assert len(kaggle.requests) == before


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        pytest.param(
            *(401, AccessError, "KAGGLE_API_TOKEN"),
            marks=pytest.mark.reliability(
                "network",
                "status 401 of Kaggle",
                "ends with 77; the ways to give credentials and the sources without an account are named",
            ),
        ),
        pytest.param(
            *(403, AccessError, RULES),
            marks=pytest.mark.reliability(
                "network",
                "rules not accepted (status 403 of Kaggle)",
                "ends with 77; where to accept them and the sources without an account are named",
            ),
        ),
        pytest.param(
            *(404, DataError, PAGE),
            marks=pytest.mark.reliability(
                "network",
                "status 404 of Kaggle",
                "ends with 65; the competition and the sources without an account are named",
            ),
        ),
    ],
)
def test_kaggles_refusals(kaggle: StandIn, tmp_path: Path, status: int, error: type[StageError], message: str) -> None:
    """A refusal says what it means, what to do, and which sources need no account."""
    kaggle.api_faults = [Fault(status=status)]
    with pytest.raises(error, match=message) as refusal:
        download(tmp_path / "archive.zip", QUICK)
    assert all(source in str(refusal.value) for source in ("microsoft", "inbox", "generated"))
    assert not kaggle.gets


@pytest.mark.reliability("network", "status 429 of Kaggle, then 500", "waited for and asked again, then it succeeds")
def test_kaggles_trouble_is_retried(kaggle: StandIn, tmp_path: Path) -> None:
    """Kaggle's limit on requests and its passing trouble are waited for."""
    kaggle.api_faults = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500)]
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY


@pytest.mark.reliability(
    "network", "Kaggle fails while signing in", "waited for and asked again; credentials are not blamed"
)
def test_trouble_while_signing_in_is_retried(kaggle: StandIn, tmp_path: Path) -> None:
    """Kaggle's passing trouble with a token is no refusal of it, though its client passes over it."""
    kaggle.sign_in_faults = [Fault(status=500)] * 2
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY
    kaggle.sign_in_faults = [Fault(status=429, headers={"Retry-After": "900"})] * 2
    with pytest.raises(NetworkError, match="wait 900 s"):
        download(tmp_path / "other.zip", QUICK)


@pytest.mark.reliability("network", "a proxy that lets nobody through", "ends with 77; the proxy's status is named")
def test_proxy_that_shuts_out(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that wants a password before it leads to Kaggle is told from Kaggle itself."""
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    kaggle.tunnel = 407
    with pytest.raises(AccessError, match=f"proxy must let you through to {PAGE}. Received: status 407"):
        download(tmp_path / "archive.zip", QUICK)
    assert {request.method for request in kaggle.requests} == {"CONNECT"}


@pytest.mark.reliability(
    "network",
    "a proxy's address that makes no sense, or one of SOCKS",
    "ends with 65; the variables to look at are named",
)
def test_proxy_that_is_none(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of another kind is named as what is wrong, and no credentials are blamed."""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(DataError, match="a proxy's in http_proxy"):
        download(tmp_path / "archive.zip", QUICK)
    assert not kaggle.requests


@pytest.mark.parametrize("status", [401, 403])
def test_token_that_is_refused(kaggle: StandIn, tmp_path: Path, status: int) -> None:
    """A token that Kaggle does not know is told from rules that are not accepted."""
    kaggle.sign_in_faults = [Fault(status=status)] * 2
    with pytest.raises(AccessError, match="must accept your credentials"):
        download(tmp_path / "archive.zip", QUICK)
    assert not kaggle.gets


def test_kaggles_wish_for_time_is_named(kaggle: StandIn, tmp_path: Path) -> None:
    """When Kaggle wants a long pause, the run ends and says how long."""
    kaggle.api_faults = [Fault(status=429, headers={"Retry-After": "900"})]
    with pytest.raises(NetworkError, match="wait 900 s"):
        download(tmp_path / "archive.zip", QUICK)


@pytest.mark.reliability(
    "network", "Kaggle does not answer", "taken for trouble after 80 seconds; after six tries, ends with 75"
)
def test_kaggles_silence_ends(kaggle: StandIn, tmp_path: Path) -> None:
    """A Kaggle that does not answer does not hold a run for ever, though its client would wait."""
    kaggle.api_faults = [Fault(stall_after=0)]
    with pytest.raises(NetworkError, match="no answer for 4 s"):
        download(tmp_path / "archive.zip", QUICK._replace(tries=1, connect=3, silence=1))


@pytest.mark.reliability(
    "network", "a body that stalls", "taken for cut after 60 seconds of silence; after six tries, ends with 75"
)
def test_stalled_archive_ends(kaggle: StandIn, tmp_path: Path) -> None:
    """An archive that stops arriving does not hold a run for ever."""
    kaggle.faults = [RIGHT, Fault(stall_after=1000)]
    with pytest.raises(NetworkError, match="no byte for 0 s"):
        download(tmp_path / "archive.zip", QUICK._replace(tries=1, silence=0.3))


@pytest.mark.reliability(
    "network", "the address that Kaggle gave has expired", "ends with 75; the next run asks for a new one and goes on"
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_expired_address_is_worth_a_new_run(kaggle: StandIn, tmp_path: Path, status: int) -> None:
    """An address that is refused by the storage is a passing trouble, not a question of the rules."""
    kaggle.faults = [RIGHT, Fault(status=status)]
    with pytest.raises(NetworkError, match="expired"):
        download(tmp_path / "archive.zip", QUICK)


def test_proxy_that_shuts_out_is_no_expired_address(kaggle: StandIn, tmp_path: Path) -> None:
    """A proxy that wants a password is named, and not tried again."""
    kaggle.faults = [RIGHT, Fault(status=407)]
    with pytest.raises(AccessError, match="The proxy must let you through"):
        download(tmp_path / "archive.zip", QUICK)


def test_no_credentials(tmp_path: Path) -> None:
    """Without credentials the message names every way to give them, and the sources that need none."""
    with pytest.raises(AccessError) as refusal:
        download(tmp_path / "archive.zip", QUICK)
    ways = ("KAGGLE_API_TOKEN", "~/.kaggle/access_token", "KAGGLE_USERNAME and KAGGLE_KEY", "~/.kaggle/kaggle.json")
    sources = ("microsoft", "inbox", "generated")
    assert all(word in str(refusal.value) for word in ways + sources)


@pytest.mark.parametrize(
    "place",
    [".kaggle/access_token", ".kaggle/kaggle.json", ".config/kaggle/kaggle.json", ".kaggle/credentials.json"],
)
def test_credentials_in_files(home: Path, place: str) -> None:
    """Credentials are found in each file in which Kaggle's client looks; an empty file is none."""
    (home / place).parent.mkdir(parents=True)
    (home / place).touch()
    assert not has_credentials()
    (home / place).write_text("{}")
    assert has_credentials()


def test_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's name alone is no credential, with a key it is."""
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    assert not has_credentials()
    monkeypatch.setenv("KAGGLE_KEY", "0123")
    assert has_credentials()


@pytest.mark.reliability("network", "a token that cannot be sent", "ends with 65; the token is not shown")
def test_failing_client_shows_no_token(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that cannot be sent, for a stray line break, is not shown in the message about it."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret\ntoken")
    with pytest.raises(DataError, match="credentials for stray characters") as refusal:
        download(tmp_path / "archive.zip", QUICK._replace(tries=1))
    assert "secret" not in str(refusal.value)
    assert not kaggle.gets


@pytest.mark.parametrize(
    ("client", "error", "message"),
    [
        ("raise ConnectionError('secret')", NetworkError, "ConnectionError"),
        ("raise TypeError('secret')", DataError, "TypeError"),
        ("import kaggle.gone", DataError, "ModuleNotFoundError"),
        ("import os; os._exit(0)", NetworkError, "gave no answer"),
        ("import os; print('hello', flush=True); os._exit(0)", NetworkError, "gave no answer"),
        ("import os; print('{}', flush=True); os._exit(0)", NetworkError, "no address"),
        ("import os; os._exit(3)", DataError, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", NetworkError, "signal 9"),
    ],
)
def test_clients_own_trouble_has_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, error: type[StageError], message: str
) -> None:
    """However Kaggle's client fails, the message says so in one line, and the exit code whether to try again."""
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "__init__.py").write_text(client)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    with pytest.raises(error, match=message) as refusal:
        download(tmp_path / "archive.zip", QUICK._replace(tries=1))
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
