"""Kaggle's client in a child process: its import connects and prints, it may end its process, and has no timeout.

`python -m transfer.sources.kaggle_client` is the child process; it prints its answer as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import requests

from transfer.runtime.errors import AccessError, DataError
from transfer.sources.http_errors import TransientError, check_status, translate_error

UPLOAD_FAILED = "Could not submit to competition"  # the client's message if the upload did not end well

_MAX_REASON = 300  # characters of Kaggle's own message
_MIN_SECRET = 8  # characters
_PROJECT = Path(__file__).resolve().parents[2]


class Call(NamedTuple):
    """A call of the client.

    Args:
        competition: its name at Kaggle.
        credentials: sentences for errors: how to provide credentials.
        hint: sentences for other errors.
        timeout: seconds for the whole call.
    """

    competition: str
    credentials: str
    hint: str
    timeout: float


def page(competition: str) -> str:
    """Return the address of a competition's page."""
    return f"https://www.kaggle.com/c/{competition}"


def archive_url(call: Call) -> str:
    """Return the URL of a competition's archive, which has a signature and expires soon.

    Raises:
        TransientError: Kaggle did not answer.
        AccessError: the credentials are wrong, or the rules of the competition are not accepted.
        DataError: there is no such competition, or Kaggle's client does not work.
    """
    answer = _answer(call, "url", call.competition)
    if not isinstance(answer, dict) or not isinstance(answer.get("url"), str):
        raise TransientError("Kaggle's client gave no URL")
    return str(answer["url"])


def submit(call: Call, file: Path, message: str) -> str:
    """Submit a file to a competition, and return Kaggle's message.

    Raises:
        TransientError: the upload failed, or Kaggle did not answer.
        AccessError: the credentials are wrong, or Kaggle does not accept submissions of this account.
        DataError: Kaggle refused the submission, or its client does not work.
    """
    match _answer(call, "submit", call.competition, str(file), message):
        case {"message": str(said)} if said == UPLOAD_FAILED:
            raise TransientError("an incomplete upload")
        case {"message": str(said), "ref": int(number)} if number:
            return said
        case {"message": str(said)}:
            raise DataError(f"Kaggle must accept the submission. Received: {said or 'no confirmation'}")
    raise TransientError("Kaggle's client gave no confirmation")


def _answer(call: Call, *arguments: str) -> object:
    """Run the client, and return its answer or raise the exception that the answer stands for.

    Files of the current folder, which may be any one of the user's, are not found by the client's imports.
    """
    path = os.pathsep.join(filter(None, (str(_PROJECT), os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.run(  # noqa: S603 - this module
            [sys.executable, "-P", "-m", __name__, "--", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=call.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"no answer for {error.timeout:.0f} s") from None
    if process.returncode < 0:
        raise TransientError(f"Kaggle's client was ended by signal {-process.returncode}")
    if process.returncode > 0:
        return _checked({"defect": f"exit code {process.returncode}"}, call)
    try:
        answer = json.loads(process.stdout.splitlines()[-1])  # after the lines that the client prints
    except (IndexError, ValueError):
        raise TransientError("Kaggle's client gave no answer") from None
    return _checked(answer, call)


def _checked(answer: object, call: Call) -> object:
    match answer:
        case {"status": int(status), "retry_after": retry_after, "reason": str(reason)}:
            _check_status(status, retry_after, reason, call)
        case {"defect": str(name)}:
            raise DataError(
                f"Kaggle's client must answer about {call.competition}. Received: {name}. "
                f"Check your credentials for stray characters, or run `make install`. {call.hint}".rstrip()
            )
        case {"transient": str(reason)}:
            raise TransientError(reason)
        case {"access": str(message)}:
            raise AccessError(message)
        case {"data": str(message)}:
            raise DataError(message)
    return answer


def _check_status(status: int, retry_after: str | None, reason: str, call: Call) -> None:
    """Map an HTTP error status of Kaggle to an exception."""
    place, received = page(call.competition), f"status {status}{f', {reason}' if reason else ''}"
    match status:
        case requests.codes.unauthorized:
            raise AccessError(f"Kaggle must accept your credentials. Received: status 401. {call.credentials}")
        case requests.codes.forbidden:
            raise AccessError(
                f"Kaggle requires that you accept the rules of the competition. Received: {received}. "
                f"Accept them at {place}/rules, then run again. {call.hint}".rstrip()
            )
        case requests.codes.not_found:
            raise DataError(f"Kaggle must have the competition {place}. Received: {received}. {call.hint}".rstrip())
        case requests.codes.bad_request:
            raise DataError(f"Kaggle must accept the request. Received: {received}. {call.hint}".rstrip())
    check_status(status, place, retry_after)


def _ask(action: str, competition: str, *arguments: str) -> dict[str, Any]:
    """Do what `archive_url` or `submit` needs with Kaggle's client, in the child process.

    The messages of the client's errors are dropped, as they may hold the token.
    """
    try:
        import kaggle  # noqa: PLC0415 - the import signs in and prints

        kaggle.api.authenticate()  # again: an error during the import is ignored
        if action == "url":
            return _find_url(kaggle.api, competition)
        file, message = arguments
        response = kaggle.api.competition_submit(file, message, competition, quiet=True)
        return {"message": _printable(response.message), "ref": response.ref}
    except requests.HTTPError as error:
        retry_after = error.response.headers.get("Retry-After")
        return {"status": error.response.status_code, "retry_after": retry_after, "reason": _reason(error)}
    except SystemExit:  # the client rejects the credentials
        return {"status": requests.codes.unauthorized, "retry_after": None, "reason": ""}
    except Exception as error:  # noqa: BLE001 - defects of the client end in a message too
        return _encode_error(translate_error(error, page(competition)))


def _find_url(api: Any, competition: str) -> dict[str, Any]:
    from kagglesdk.competitions.types.competition_api_service import (  # noqa: PLC0415 - it signs in, too
        ApiDownloadDataFilesRequest,
    )

    request = ApiDownloadDataFilesRequest()
    request.competition_name = competition
    with api.build_kaggle_client() as client:
        return {"url": client.competitions.competition_api_client.download_data_files(request).url}


def _reason(error: requests.HTTPError) -> str:
    """Return the message in the body of Kaggle's response, such as that of a day's limit; empty if there is none."""
    try:
        message = error.response.json()["message"]
    except (ValueError, LookupError, TypeError):
        return ""
    return _printable(message) if isinstance(message, str) else ""


def _printable(message: str) -> str:
    """Return a message of Kaggle in one line, shortened, and without credentials."""
    api = getattr(sys.modules.get("kaggle"), "api", None)
    in_files = getattr(api, "config_values", {})
    for secret in (*in_files.values(), os.environ.get("KAGGLE_API_TOKEN"), os.environ.get("KAGGLE_KEY")):
        if isinstance(secret, str) and len(secret) >= _MIN_SECRET:
            message = message.replace(secret, "***")
    return "".join(filter(str.isprintable, " ".join(message.split())))[:_MAX_REASON]


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transfer.sources.kaggle_client", description="Ask Kaggle's client; the answer is JSON."
    )
    parser.add_argument("action", choices=("url", "submit"), help="print the address of an archive, or submit a file")
    parser.add_argument("competition", help="its name at Kaggle")
    parser.add_argument("arguments", nargs="*", help="of `submit`: the file and the message")
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    print(json.dumps(_ask(options.action, options.competition, *options.arguments)))
