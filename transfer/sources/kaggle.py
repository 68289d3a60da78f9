"""The competition on Kaggle: its archive of photographs, through Kaggle's own client and the user's account."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from transfer.runtime.errors import AccessError, DataError
from transfer.sources import http
from transfer.sources.http import RetryPolicy, TransientError

NAME = "dogs-vs-cats"
PAGE = f"https://www.kaggle.com/c/{NAME}"
RULES = f"{PAGE}/rules"
WITHOUT_ACCOUNT = (
    "Without an account: `download.source` in params.yaml as `microsoft` (the same photographs), "
    "`inbox` (your own) or `generated`."
)

_HELP = (
    "Give one of: KAGGLE_API_TOKEN, ~/.kaggle/access_token, KAGGLE_USERNAME and KAGGLE_KEY, or ~/.kaggle/kaggle.json "
    f"(kaggle.com, Settings, API). {WITHOUT_ACCOUNT}"
)


def download(target: Path, patience: RetryPolicy | None = None) -> None:
    """Bring the competition's whole archive to `target`, resuming what was cut.

    Kaggle's client signs in and says where the archive lies; `transport` brings it, as the client's own transfer has
    no time limit, no checksum, and may take an error page for a part of the archive.

    Raises:
        AccessError: no credentials, wrong ones, or the competition's rules are not accepted.
        NetworkError: Kaggle cannot be reached, or stays in trouble.
        DataError: there is no such competition, or Kaggle's client does not work.
    """
    if http.is_complete(target):
        return
    if not has_credentials():
        raise AccessError(f"Kaggle gives photographs to those with an account. Received: no credentials. {_HELP}")
    patience = patience or RetryPolicy()
    address = http.retry(lambda: _address(patience), patience=patience, what=f"asking Kaggle for {NAME}")
    http.download(address, target, patience=patience, signed=True)


def has_credentials() -> bool:
    """Whether there is anything Kaggle's client would sign in with; it is not imported, it prints and calls out."""
    if os.environ.get("KAGGLE_API_TOKEN") or (os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")):
        return True
    home = Path("~/.kaggle").expanduser()
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "kaggle"
    files = [home / name for name in ("access_token", "access_token.txt", "kaggle.json", "credentials.json")]
    files.append(settings / "kaggle.json")
    if chosen := os.environ.get("KAGGLE_CONFIG_DIR"):
        files.append(Path(chosen) / "kaggle.json")
    return any(file.is_file() and file.stat().st_size for file in files)


def _address(patience: RetryPolicy) -> str:
    """Where the archive lies: an address with a signature, for a short time.

    Kaggle's client runs in a process of its own: it calls out and prints when imported, may end its process, and waits
    for an answer for ever.
    """
    try:
        process = subprocess.run(  # noqa: S603 - this very module
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience.connect + patience.silence,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"no answer for {error.timeout:.0f} s") from None
    if process.returncode < 0:
        raise TransientError(f"Kaggle's client was ended by signal {-process.returncode}")
    if process.returncode > 0:
        return _understood({"unforeseen": f"exit code {process.returncode}"})
    try:
        answer = json.loads(process.stdout.splitlines()[-1])  # below what the client prints
    except (IndexError, ValueError):
        raise TransientError("Kaggle's client gave no answer") from None
    return _understood(answer)


def _understood(answer: object) -> str:
    match answer:
        case {"address": str(address)}:
            return address
        case {"status": 401}:
            raise AccessError(f"Kaggle must accept your credentials. Received: status 401. {_HELP}")
        case {"status": 403}:
            raise AccessError(
                f"Kaggle gives these photographs to those who have accepted the competition's rules. Received: status "
                f"403. Accept them at {RULES}, then run again. {WITHOUT_ACCOUNT}"
            )
        case {"status": 404}:
            raise DataError(f"Kaggle must have the competition {PAGE}. Received: status 404. {WITHOUT_ACCOUNT}")
        case {"status": int(status), "retry_after": retry_after}:
            http.raise_for_status(status, PAGE, retry_after)
        case {"unforeseen": str(kind)}:
            raise DataError(
                f"Kaggle's client must say where {NAME} lies. Received: {kind}. "
                "Look at your credentials for stray characters, or install the project's requirements again. "
                f"{WITHOUT_ACCOUNT}"
            )
        case {"passing": str(reason)}:
            raise TransientError(reason)
        case {"access": str(message)}:
            raise AccessError(message)
        case {"data": str(message)}:
            raise DataError(message)
    raise TransientError("Kaggle's client gave no address")


def _ask() -> dict[str, Any]:
    """Ask Kaggle, as the child process, through its client; what errors say is kept back, it may hold the token."""
    try:
        import kaggle  # noqa: PLC0415 - the import itself signs in and prints
        from kagglesdk.competitions.types.competition_api_service import (  # noqa: PLC0415 - likewise
            ApiDownloadDataFilesRequest,
        )

        kaggle.api.authenticate()  # again: what fails when it is imported, it passes over
        request = ApiDownloadDataFilesRequest()
        request.competition_name = NAME
        with kaggle.api.build_kaggle_client() as client:
            response = client.competitions.competition_api_client.download_data_files(request)
            return {"address": response.url}
    except requests.HTTPError as error:
        return {"status": error.response.status_code, "retry_after": error.response.headers.get("Retry-After")}
    except SystemExit:  # how the client refuses credentials
        return {"status": 401}
    except Exception as error:  # noqa: BLE001 - the client's own defects too end in a message
        return _told(http.translate_error(error, PAGE, RetryPolicy()))


def _told(error: Exception) -> dict[str, str]:
    """An error in the words that the parent process understands."""
    match error:
        case TransientError():
            return {"passing": str(error)}
        case AccessError():
            return {"access": str(error)}
        case DataError():
            return {"data": str(error)}
    return {"unforeseen": type(error).__name__}


if __name__ == "__main__":
    print(json.dumps(_ask()))
