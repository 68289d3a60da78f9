"""Kaggle: download the archive of a competition, and submit to it, with Kaggle's own client and the user's account."""

import codecs
import json
import os
from pathlib import Path

from transfer.runtime.errors import AccessError, NetworkError
from transfer.sources import http, kaggle_client
from transfer.sources.http_errors import TransientError
from transfer.sources.session import RetryPolicy, retry

NAME = "dogs-vs-cats"
PAGE = kaggle_client.page(NAME)
RULES = f"{PAGE}/rules"
WITHOUT_ACCOUNT = (
    "Without an account: set `download.source` in params.yaml to `microsoft` (the same photographs), "
    "`inbox` (your own) or `generated`."
)

_CREDENTIALS = (
    "Provide one of: KAGGLE_API_TOKEN, ~/.kaggle/access_token, KAGGLE_USERNAME and KAGGLE_KEY, or "
    "~/.kaggle/kaggle.json (kaggle.com, Settings, API)."
)


def download(
    target: Path, policy: RetryPolicy | None = None, *, competition: str = NAME, hint: str = WITHOUT_ACCOUNT
) -> None:
    """Download the archive of a competition, or the missing bytes of a partial download.

    Kaggle's client signs in and returns the URL of the archive; `http` downloads it. The client's own download has no
    timeout and no checksum, and may append an error page to the archive.

    Args:
        target: the path of the archive.
        policy: retries and timeouts.
        competition: its name at Kaggle.
        hint: what to do without an account, for messages.

    Raises:
        AccessError: credentials are missing, unreadable or wrong, or the rules of the competition are not accepted.
        NetworkError: Kaggle did not answer, or did not deliver the archive, after all retries.
        DataError: the competition does not exist, or Kaggle's client does not work.
    """
    if http.is_complete(target):
        return
    _check_credentials("download", hint)
    policy = policy or RetryPolicy()
    credentials = f"{_CREDENTIALS} {hint}"
    call = kaggle_client.Call(competition, credentials=credentials, hint=hint, timeout=_timeout(policy))
    url = retry(lambda: kaggle_client.archive_url(call), policy=policy, task=f"requesting {competition} from Kaggle")
    http.download(url, target, policy=policy, signed=True)


def submit(file: Path, message: str, *, competition: str, policy: RetryPolicy | None = None) -> str:
    """Send a file of predictions to a competition, and return Kaggle's answer.

    Nothing is repeated after a failure: each submission that Kaggle has received counts towards the limit of a day.

    Args:
        file: the predictions.
        message: the description of the submission.
        competition: its name at Kaggle.
        policy: its timeouts are those of the whole submission.

    Raises:
        AccessError: credentials are missing or wrong, or Kaggle does not accept submissions of this account.
        NetworkError: the upload failed, or Kaggle did not answer.
        DataError: Kaggle refused the submission; the message has its reason.
    """
    hint = f"Or upload {file} yourself at {kaggle_client.page(competition)}."
    _check_credentials("submit", hint)
    policy = policy or RetryPolicy(read_timeout=300)
    call = kaggle_client.Call(competition, credentials=f"{_CREDENTIALS} {hint}", hint="", timeout=_timeout(policy))
    try:
        return kaggle_client.submit(call, file, message)
    except TransientError as error:
        wait = f" Kaggle asks to wait {error.retry_after} s." if error.retry_after else ""
        raise NetworkError(
            f"Kaggle must confirm the submission. Received: {error}.{wait} Look at "
            f"{kaggle_client.page(competition)}/submissions before you send it again: it may have arrived."
        ) from None


def _check_credentials(purpose: str, hint: str) -> None:
    if not has_credentials():
        raise AccessError(f"Kaggle requires an account to {purpose}. Received: no credentials. {_CREDENTIALS} {hint}")
    _check_key_file(hint)


def _timeout(policy: RetryPolicy) -> float:
    return policy.connect_timeout + policy.read_timeout


def has_credentials() -> bool:
    """Return whether Kaggle's client would find credentials; the client prints and connects when it is imported."""
    return _in_environment() or any(map(_has_content, [*_other_files(), *_key_files()]))


def _check_key_file(hint: str) -> None:
    """Check the file `kaggle.json`, which Kaggle's client reads even if it uses other credentials.

    Raises:
        AccessError: the client would fail on it, or find no user name and key in it where it has no others; no content
            is shown.
    """
    file = next(filter(_has_content, _key_files()), None)
    if file is None:
        return
    is_used = not (_in_environment() or any(map(_has_content, _other_files())))
    try:
        match json.loads(file.read_text(encoding="utf-8")):
            case {"username": str(name), "key": str(key)} if name and key:
                return
            case dict() | None if not is_used:
                return
        received = "JSON without these"  # the client fails on a list even if it does not use it
    except (ValueError, RecursionError):
        if not is_used:
            return
        with_mark = file.read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        received = "a byte order mark" if with_mark else f"{file.stat().st_size} bytes, no JSON"
    raise AccessError(
        f"{file} must be JSON in UTF-8 with `username` and `key`. Received: {received}. "
        f"Download it again (kaggle.com, Settings, API). {hint}"
    )


def _in_environment() -> bool:
    return bool(
        os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"))
    )


def _other_files() -> list[Path]:
    """Return the files, other than kaggle.json, where Kaggle's client reads credentials."""
    home = Path("~/.kaggle").expanduser()
    return [home / name for name in ("access_token", "access_token.txt", "credentials.json")]


def _key_files() -> list[Path]:
    """Return the places of kaggle.json, the first that exists counts."""
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "kaggle"
    folders = [Path("~/.kaggle").expanduser(), settings]
    if folder := os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.insert(0, Path(folder))
    return [folder / "kaggle.json" for folder in folders]


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
