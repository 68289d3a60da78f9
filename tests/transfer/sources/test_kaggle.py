import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.servers import TOKEN, Fault, StandIn, serve
from transfer.runtime.errors import AccessError, DataError, NetworkError, StageError
from transfer.sources.kaggle import NAME, PAGE, RULES, download, has_credentials, submit
from transfer.sources.session import RetryPolicy

BODY = bytes(range(256)) * 8_000
QUICK = RetryPolicy(retries=Retry(2, backoff_factor=0.01, backoff_max=5), connect_timeout=10, read_timeout=5)
NO_RETRY = QUICK._replace(retries=Retry(0))
CORRECT = Fault()  # for the first request, which Kaggle's client sends and whose body it does not read


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


def test_archive_is_downloaded_with_kaggles_client(kaggle: StandIn, tmp_path: Path) -> None:
    """Kaggle's client signs in; the token is sent to Kaggle, not to the storage of the archive."""
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY
    [request, *_] = [request for request in kaggle.requests if request.path.endswith("/DownloadDataFiles")]
    assert request.headers["Authorization"].startswith("Bearer ")
    assert kaggle.gets
    assert not any("Authorization" in request.headers for request in kaggle.gets)


@pytest.mark.reliability(
    "network", "the connection is cut, then status 503, then another run", "no error page becomes part of the file"
)
def test_cut_archive_is_resumed(kaggle: StandIn, tmp_path: Path) -> None:
    """A later run, with a new URL, requests the missing bytes, and error pages are not appended."""
    kaggle.faults = [CORRECT, Fault(cut_after=20 << 16), *[Fault(status=503, body=b"sorry")] * 2]
    with pytest.raises(NetworkError):
        download(tmp_path / "archive.zip", QUICK._replace(retries=Retry(1)))
    download(tmp_path / "archive.zip", QUICK)
    assert kaggle.gets[-1].headers["Range"] == f"bytes={20 << 16}-"
    assert (tmp_path / "archive.zip").read_bytes() == BODY


def test_complete_archive_needs_no_account(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete archive is used without credentials and without a request."""
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
                "exit 77; the message has the ways to provide credentials, and the sources without an account",
            ),
        ),
        pytest.param(
            *(403, AccessError, RULES),
            marks=pytest.mark.reliability(
                "network",
                "the rules of the competition are not accepted (status 403 of Kaggle)",
                "exit 77; the message has the page to accept them, and the sources without an account",
            ),
        ),
        pytest.param(
            *(404, DataError, PAGE),
            marks=pytest.mark.reliability(
                "network",
                "status 404 of Kaggle",
                "exit 65; the message has the competition, and the sources without an account",
            ),
        ),
    ],
)
def test_permanent_errors_of_kaggle(
    kaggle: StandIn, tmp_path: Path, status: int, error: type[StageError], message: str
) -> None:
    """The message has the reason, what to do, and the sources that need no account."""
    kaggle.api_faults = [Fault(status=status)]
    with pytest.raises(error, match=message) as caught:
        download(tmp_path / "archive.zip", QUICK)
    assert all(source in str(caught.value) for source in ("microsoft", "inbox", "generated"))
    assert not kaggle.gets


@pytest.mark.reliability("network", "status 429 of Kaggle, then 500", "retried with back-off")
def test_transient_errors_of_kaggle_are_retried(kaggle: StandIn, tmp_path: Path) -> None:
    """A limit on requests and an error of Kaggle's server are retried."""
    kaggle.api_faults = [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500)]
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY


@pytest.mark.reliability(
    "network", "an error of Kaggle while signing in", "retried with back-off; the credentials are not blamed"
)
def test_errors_while_signing_in_are_retried(kaggle: StandIn, tmp_path: Path) -> None:
    """An error of Kaggle's server is not taken for wrong credentials, though Kaggle's client ignores it."""
    kaggle.sign_in_faults = [Fault(status=500)] * 2
    download(tmp_path / "archive.zip", QUICK)
    assert (tmp_path / "archive.zip").read_bytes() == BODY
    kaggle.sign_in_faults = [Fault(status=429, headers={"Retry-After": "900"})] * 2
    with pytest.raises(NetworkError, match="wait 900 s"):
        download(tmp_path / "other.zip", QUICK)


@pytest.mark.reliability("network", "a proxy that denies access", "exit 77; the message has its status")
def test_proxy_that_denies_access(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that requires a password is named, not Kaggle."""
    monkeypatch.delenv("KAGGLE_API_ENVIRONMENT")
    kaggle.tunnel = 407
    with pytest.raises(AccessError, match=f"proxy must give access to {PAGE}. Received: status 407"):
        download(tmp_path / "archive.zip", QUICK)
    assert {request.method for request in kaggle.requests} == {"CONNECT"}


@pytest.mark.reliability(
    "network", "an invalid address of a proxy, or a SOCKS proxy", "exit 65; the message has the variables to check"
)
def test_invalid_proxy(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the proxy are named, and the credentials are not blamed."""
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(DataError, match="a proxy in http_proxy"):
        download(tmp_path / "archive.zip", QUICK)
    assert not kaggle.requests


@pytest.mark.parametrize("status", [401, 403])
def test_unknown_token(kaggle: StandIn, tmp_path: Path, status: int) -> None:
    """A token that Kaggle rejects is not taken for rules that are not accepted."""
    kaggle.sign_in_faults = [Fault(status=status)] * 2
    with pytest.raises(AccessError, match="must accept your credentials"):
        download(tmp_path / "archive.zip", QUICK)
    assert not kaggle.gets


def test_long_retry_after_of_kaggle_ends_the_download(kaggle: StandIn, tmp_path: Path) -> None:
    """The message has the seconds that Kaggle asks to wait."""
    kaggle.api_faults = [Fault(status=429, headers={"Retry-After": "900"})]
    with pytest.raises(NetworkError, match="wait 900 s"):
        download(tmp_path / "archive.zip", QUICK)


@pytest.mark.reliability("network", "Kaggle does not answer", "timed out after 80 seconds; exit 75 after six attempts")
def test_kaggle_times_out(kaggle: StandIn, tmp_path: Path) -> None:
    """Kaggle's client has no timeout of its own, and does not keep a run waiting for ever."""
    kaggle.api_faults = [Fault(stall_after=0)]
    with pytest.raises(NetworkError, match="no answer for 4 s"):
        download(tmp_path / "archive.zip", NO_RETRY._replace(connect_timeout=3, read_timeout=1))


@pytest.mark.reliability("network", "a body that stalls", "timed out after 60 seconds; exit 75 after six attempts")
def test_stalled_archive_times_out(kaggle: StandIn, tmp_path: Path) -> None:
    """The timeouts of a download apply to the archive of Kaggle."""
    kaggle.faults = [CORRECT, Fault(stall_after=1000)]
    with pytest.raises(NetworkError, match="timed out"):
        download(tmp_path / "archive.zip", NO_RETRY._replace(read_timeout=0.3))


@pytest.mark.reliability(
    "network", "the URL from Kaggle has expired", "exit 75; the next run requests a new URL and resumes"
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_expired_url_is_a_network_error(kaggle: StandIn, tmp_path: Path, status: int) -> None:
    """A signature that the storage rejects is not taken for rules that are not accepted."""
    kaggle.faults = [CORRECT, Fault(status=status)]
    with pytest.raises(NetworkError, match="expired"):
        download(tmp_path / "archive.zip", QUICK)


def test_proxy_that_denies_access_is_not_an_expired_url(kaggle: StandIn, tmp_path: Path) -> None:
    """A proxy that requires a password on the way to the storage is named."""
    kaggle.faults = [CORRECT, Fault(status=407)]
    with pytest.raises(AccessError, match="The proxy must give access"):
        download(tmp_path / "archive.zip", QUICK)


def test_no_credentials(tmp_path: Path) -> None:
    """The message has every way to provide credentials, and the sources that need none."""
    with pytest.raises(AccessError) as caught:
        download(tmp_path / "archive.zip", QUICK)
    ways = ("KAGGLE_API_TOKEN", "~/.kaggle/access_token", "KAGGLE_USERNAME and KAGGLE_KEY", "~/.kaggle/kaggle.json")
    sources = ("microsoft", "inbox", "generated")
    assert all(word in str(caught.value) for word in ways + sources)


@pytest.mark.parametrize(
    "place",
    [".kaggle/access_token", ".kaggle/kaggle.json", ".config/kaggle/kaggle.json", ".kaggle/credentials.json"],
)
def test_credentials_in_files(home: Path, place: str) -> None:
    """Credentials are found in each file that Kaggle's client reads; an empty file has none."""
    (home / place).parent.mkdir(parents=True)
    (home / place).touch()
    assert not has_credentials()
    (home / place).write_text("{}")
    assert has_credentials()


@pytest.mark.reliability(
    "network", "kaggle.json is truncated, has a byte order mark or other keys", "exit 77; the message has its path"
)
@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b'{"username": "somebody", "key": "secr', "37 bytes, no JSON"),
        (b'\xef\xbb\xbf{"username": "somebody", "key": "secret"}', "a byte order mark"),
        ('{"username": "somebody", "key": "secret"}'.encode("utf-16"), "a byte order mark"),
        (b'{"user": "somebody", "api_key": "secret"}', "JSON without these"),
        (b'{"username": "somebody", "key": ""}', "JSON without these"),
        (b'["secret"]', "JSON without these"),
    ],
    ids=["truncated", "UTF-8 with a mark", "UTF-16", "other keys", "no key", "a list"],
)
def test_invalid_key_file_is_named(
    kaggle: StandIn, home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, received: str
) -> None:
    """Kaggle is not asked with it, and no content is shown."""
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (home / ".kaggle").mkdir()
    (home / ".kaggle/kaggle.json").write_bytes(content)
    with pytest.raises(AccessError, match=rf"^{home}/\.kaggle/kaggle\.json must .* Received: {received}") as caught:
        download(home / "archive.zip", QUICK)
    assert "secr" not in str(caught.value)
    assert not kaggle.requests


@pytest.mark.parametrize(
    "content",
    [b'{"username": "some', b"\xef\xbb\xbf{}", b'{"user": "somebody"}', b"null", b"[" * 100_000],
    ids=["truncated", "UTF-8 with a mark", "other keys", "null", "nested"],
)
def test_invalid_key_file_does_not_matter_if_there_is_a_token(kaggle: StandIn, home: Path, content: bytes) -> None:
    """Kaggle's client prefers a token."""
    (home / ".kaggle").mkdir()
    (home / ".kaggle/kaggle.json").write_bytes(content)
    download(home / "archive.zip", QUICK)
    assert kaggle.gets


@pytest.mark.reliability(
    "network", "kaggle.json is truncated, has a byte order mark or other keys", "exit 77; the message has its path"
)
@pytest.mark.parametrize("content", [b'["secret"]', b"7", b'"secret"'])
def test_key_file_that_is_no_object_is_named_even_if_there_is_a_token(
    kaggle: StandIn, home: Path, content: bytes
) -> None:
    """Kaggle's client reads the file in any case, and fails on it."""
    (home / ".kaggle").mkdir()
    (home / ".kaggle/kaggle.json").write_bytes(content)
    with pytest.raises(AccessError, match=r"kaggle\.json must be JSON .* Received: JSON without these"):
        download(home / "archive.zip", QUICK)
    assert not kaggle.requests


def test_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user name is a credential only with a key."""
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    assert not has_credentials()
    monkeypatch.setenv("KAGGLE_KEY", "0123")
    assert has_credentials()


@pytest.mark.reliability("network", "a token with invalid characters", "exit 65; the token is not shown")
def test_invalid_token_is_not_shown(kaggle: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message about a token with a line break does not have the token."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret\ntoken")
    with pytest.raises(DataError, match="credentials for stray characters") as caught:
        download(tmp_path / "archive.zip", NO_RETRY)
    assert "secret" not in str(caught.value)
    assert not kaggle.gets


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    (tmp_path / "submission.csv").write_text("id,label\n1,0\n")
    return tmp_path / "submission.csv"


def test_file_is_submitted_with_kaggles_client(kaggle: StandIn, file: Path) -> None:
    """The file and the message arrive at the competition that is named, and Kaggle's answer is returned."""
    answer = submit(file, "a message", competition="a-competition", policy=QUICK)
    assert answer == "Successfully submitted to Dogs vs. Cats"
    assert kaggle.uploaded == [file.read_bytes()]
    [request] = kaggle.submissions
    assert (request["competitionName"], request["submissionDescription"]) == ("a-competition", "a message")
    assert request["blobFileTokens"] == "an-upload"


def test_cut_upload_is_repeated(kaggle: StandIn, file: Path) -> None:
    """A connection that is cut during the upload is no half submission."""
    kaggle.submission_faults = [CORRECT, Fault(cut_after=0)]
    submit(file, "", competition=NAME, policy=QUICK)
    assert kaggle.uploaded == [file.read_bytes()]


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        pytest.param(
            *([CORRECT, Fault(status=503)], NetworkError, "an incomplete upload"),
            marks=pytest.mark.reliability(
                "network", "the upload of a submission fails", "exit 75; nothing is submitted"
            ),
        ),
        ([Fault(status=429, headers={"Retry-After": "900"})], NetworkError, "status 429. Kaggle asks to wait 900 s"),
        ([CORRECT, CORRECT, Fault(status=500)], NetworkError, "status 500. Look at .*/submissions"),
        ([Fault(status=403)], AccessError, "accept the rules of the competition"),
        ([Fault(status=404)], DataError, "must have the competition"),
        pytest.param(
            *([CORRECT, CORRECT, Fault(status=400, body=b"Daily\nlimit, a-token-nobody-may-see")],),
            *(DataError, r"status 400, Daily limit, \*\*\*"),
            marks=pytest.mark.reliability(
                "network", "Kaggle refuses a submission, as above a day's limit", "exit 65; the message has its reason"
            ),
        ),
    ],
    ids=["upload", "rate limit", "server", "rules", "no competition", "day's limit"],
)
def test_failed_submission_is_noticed(
    kaggle: StandIn, file: Path, faults: list[Fault], error: type[StageError], message: str
) -> None:
    """Each failure is one line without the token, and nothing is sent twice."""
    kaggle.submission_faults = faults
    with pytest.raises(error, match=message) as caught:
        submit(file, "", competition=NAME, policy=QUICK)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not kaggle.submissions
    assert len([request for request in kaggle.requests if request.path.endswith("CreateSubmission")]) <= 1


def test_submission_without_a_number_has_failed(kaggle: StandIn, file: Path) -> None:
    """Kaggle may answer with a message alone; the submission was not accepted then."""
    kaggle.answer = {"message": "Submission not allowed", "ref": 0}
    with pytest.raises(DataError, match="Received: Submission not allowed"):
        submit(file, "", competition=NAME, policy=QUICK)


def test_submission_needs_an_account(file: Path) -> None:
    """Without credentials nothing is started, and the message has the ways to provide them."""
    with pytest.raises(AccessError, match=r"account to submit.* KAGGLE_API_TOKEN"):
        submit(file, "", competition=NAME, policy=QUICK)
