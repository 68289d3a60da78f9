"""Kaggle: download the archive of the competition with Kaggle's own client and the user's account."""

import argparse
import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from transfer.runtime.errors import AccessError, DataError
from transfer.sources import http
from transfer.sources.http_errors import TransientError, check_status, translate_error
from transfer.sources.session import RetryPolicy, retry

NAME = "dogs-vs-cats"
PAGE = f"https://www.kaggle.com/c/{NAME}"
RULES = f"{PAGE}/rules"
WITHOUT_ACCOUNT = (
    "Without an account: set `download.source` in params.yaml to `microsoft` (the same photographs), "
    "`inbox` (your own) or `generated`."
)

_CREDENTIALS = (
    "Provide one of: KAGGLE_API_TOKEN, ~/.kaggle/access_token, KAGGLE_USERNAME and KAGGLE_KEY, or "
    f"~/.kaggle/kaggle.json (kaggle.com, Settings, API). {WITHOUT_ACCOUNT}"
)


def download(target: Path, policy: RetryPolicy | None = None) -> None:
    """Download the archive of the competition, or the missing bytes of a partial download.

    Kaggle's client signs in and returns the URL of the archive; `http` downloads it. The client's own download has no
    timeout and no checksum, and may append an error page to the archive.

    Args:
        target: the path of the archive.
        policy: retries and timeouts.

    Raises:
        AccessError: credentials are missing, unreadable or wrong, or the rules of the competition are not accepted.
        NetworkError: Kaggle did not answer, or did not deliver the archive, after all retries.
        DataError: the competition does not exist, or Kaggle's client does not work.
    """
    if http.is_complete(target):
        return
    if not has_credentials():
        raise AccessError(f"Kaggle requires an account to download. Received: no credentials. {_CREDENTIALS}")
    _check_key_file()
    policy = policy or RetryPolicy()
    url = retry(lambda: _request_url(policy), policy=policy, task=f"requesting {NAME} from Kaggle")
    http.download(url, target, policy=policy, signed=True)


def has_credentials() -> bool:
    """Return whether Kaggle's client would find credentials; the client prints and connects when it is imported."""
    return _in_environment() or any(map(_has_content, [*_other_files(), *_key_files()]))


def _check_key_file() -> None:
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
        f"Download it again (kaggle.com, Settings, API). {WITHOUT_ACCOUNT}"
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


def _request_url(policy: RetryPolicy) -> str:
    """Return the URL of the archive, which has a signature and expires soon.

    Kaggle's client runs in a child process: it connects and prints when it is imported, may end its process, and has no
    timeout.
    """
    try:
        process = subprocess.run(  # noqa: S603 - this module
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=policy.connect_timeout + policy.read_timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"no answer for {error.timeout:.0f} s") from None
    if process.returncode < 0:
        raise TransientError(f"Kaggle's client was ended by signal {-process.returncode}")
    if process.returncode > 0:
        return _read_answer({"defect": f"exit code {process.returncode}"})
    try:
        answer = json.loads(process.stdout.splitlines()[-1])  # after the lines that the client prints
    except (IndexError, ValueError):
        raise TransientError("Kaggle's client gave no answer") from None
    return _read_answer(answer)


def _read_answer(answer: object) -> str:
    """Return the URL in an answer of the child process, or raise the exception that the answer stands for."""
    match answer:
        case {"url": str(url)}:
            return url
        case {"status": int(status), "retry_after": retry_after}:
            _check_status(status, retry_after)
        case {"defect": str(name)}:
            raise DataError(
                f"Kaggle's client must return the URL of {NAME}. Received: {name}. "
                f"Check your credentials for stray characters, or run `make install`. {WITHOUT_ACCOUNT}"
            )
        case {"transient": str(reason)}:
            raise TransientError(reason)
        case {"access": str(message)}:
            raise AccessError(message)
        case {"data": str(message)}:
            raise DataError(message)
    raise TransientError("Kaggle's client gave no URL")


def _check_status(status: int, retry_after: str | None) -> None:
    """Map an HTTP error status of Kaggle to an exception."""
    match status:
        case requests.codes.unauthorized:
            raise AccessError(f"Kaggle must accept your credentials. Received: status 401. {_CREDENTIALS}")
        case requests.codes.forbidden:
            raise AccessError(
                "Kaggle requires that you accept the rules of the competition. Received: status 403. "
                f"Accept them at {RULES}, then run again. {WITHOUT_ACCOUNT}"
            )
        case requests.codes.not_found:
            raise DataError(f"Kaggle must have the competition {PAGE}. Received: status 404. {WITHOUT_ACCOUNT}")
    check_status(status, PAGE, retry_after)


def _ask() -> dict[str, Any]:
    """Request the URL with Kaggle's client, in the child process.

    The messages of the client's errors are dropped, as they may hold the token.
    """
    try:
        import kaggle  # noqa: PLC0415 - the import signs in and prints
        from kagglesdk.competitions.types.competition_api_service import (  # noqa: PLC0415 - so does this one
            ApiDownloadDataFilesRequest,
        )

        kaggle.api.authenticate()  # again: an error during the import is ignored
        request = ApiDownloadDataFilesRequest()
        request.competition_name = NAME
        with kaggle.api.build_kaggle_client() as client:
            response = client.competitions.competition_api_client.download_data_files(request)
            return {"url": response.url}
    except requests.HTTPError as error:
        return {"status": error.response.status_code, "retry_after": error.response.headers.get("Retry-After")}
    except SystemExit:  # the client rejects the credentials
        return {"status": requests.codes.unauthorized, "retry_after": None}
    except Exception as error:  # noqa: BLE001 - defects of the client end in a message too
        return _encode_error(translate_error(error, PAGE))


def _encode_error(error: Exception) -> dict[str, str]:
    """Return an error in the form that the parent process reads."""
    match error:
        case TransientError():
            return {"transient": str(error)}
        case AccessError():
            return {"access": str(error)}
        case DataError():
            return {"data": str(error)}
    return {"defect": type(error).__name__}


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m transfer.sources.kaggle", description="Print the address of the competition's archive, as JSON."
    ).parse_args()
    print(json.dumps(_ask()))
