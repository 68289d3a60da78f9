"""Transport: a file brought over HTTP whole, resumed when it was cut, or not at all."""

import email.utils
import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests

from transfer import outputs, progress
from transfer.errors import AccessError, BusyError, DataError, NetworkError

log = logging.getLogger(__name__)
_CHUNK = 1 << 16  # what a cut loses at most
_GOOD_MANY = 1 << 20  # bytes
_PASSING = frozenset({408, 425, 429})  # and all of 500 to 599
_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<total>\d+)")

T = TypeVar("T")


class Checksum(NamedTuple):
    """What a file's bytes must add up to: hashlib's name of the algorithm, and the hexadecimal digest."""

    algorithm: str
    digest: str


class Patience(NamedTuple):
    """How long to put up with a bad connection: tries in a row that bring nothing, and seconds."""

    tries: int = 6
    first_wait: float = 1.0  # doubled with each try
    longest_wait: float = 120.0  # also of what a server asks for
    connect: float = 20.0
    silence: float = 60.0  # without a byte


class PassingError(Exception):
    """A passing failure of one try; the text is the reason."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        """Args: reason, in words; wait, the seconds the server asks for."""
        super().__init__(reason)
        self.wait = wait


class _Identity(NamedTuple):
    """What tells that a server still has the file that a partial one was cut from."""

    validator: str | None  # a strong ETag or a date
    total: int | None  # bytes


def fetch(
    address: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    size: int | None = None,
    patience: Patience | None = None,
) -> None:
    """Bring `address` to `target`, unless it lies there whole already.

    What arrived of a cut transfer is kept beside `target`, and the rest is asked for by this or a later call. The
    file's checksum is kept beside it too, so that a later call knows it to be whole.

    Args:
        address: an HTTP or HTTPS address; its query is never shown, it may hold a signature.
        target: a path in a folder for such files alone.
        checksum: what the bytes must add up to, where known.
        size: bytes, where known.
        patience: how much trouble to put up with.

    Raises:
        NetworkError: the connection stayed cut, silent or refused, or the server stayed in trouble.
        BusyError: another process is fetching the same file.
        AccessError: the server wants an account.
        DataError: the server has no such file, or another one than expected.
    """
    if is_whole(target, checksum):
        return
    forget(target)
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(_beside(target, "part")) as file:
        patiently(
            lambda: _continue(address, target, file, size, patience),
            patience=patience,
            what=f"fetching {shown(address)}",
            gained=lambda: file.seek(0, 2),
        )
        _verify(address, target, file, checksum)
        _mark(target, outputs.sha256(_beside(target, "part")))
        _beside(target, "part").replace(target)
    _beside(target, "identity").unlink(missing_ok=True)


def is_whole(target: Path, checksum: Checksum | None = None) -> bool:
    """Whether a file is there with the checksum given, or with the one that was kept beside it."""
    kept = _beside(target, "sha256")
    if not target.exists() or not (checksum or kept.exists()):
        return False
    expected = checksum or Checksum("sha256", kept.read_text(encoding="ascii").strip())
    return _digest(target, expected.algorithm) == expected.digest


def mark_whole(target: Path) -> None:
    """Keep a file's checksum beside it, for `is_whole`."""
    _mark(target, outputs.sha256(target))


def forget(target: Path) -> None:
    """Remove a fetched file and its checksum."""
    target.unlink(missing_ok=True)
    _beside(target, "sha256").unlink(missing_ok=True)


def patiently(attempt: Callable[[], T], *, patience: Patience, what: str, gained: Callable[[], int] = lambda: 0) -> T:
    """Try until it works, waiting longer each time, or as long as the server asks.

    Args:
        attempt: raises `PassingError` for what may pass.
        patience: how often and how long.
        what: what is tried, for the messages.
        gained: how many bytes there are; a try that brought a good many is not counted against `patience`.

    Raises:
        NetworkError: it did not work.
    """
    failures, before = 0, gained()
    while True:
        try:
            return attempt()
        except PassingError as trouble:
            now = gained()
            failures = 1 if now >= before + _GOOD_MANY else failures + 1
            before = now
            wait = trouble.wait if trouble.wait is not None else patience.first_wait * 2 ** (failures - 1)
            if failures >= patience.tries or wait > patience.longest_wait:
                asked = f" The server asks to wait {trouble.wait:.0f} s." if trouble.wait else ""
                kept = " What arrived is kept." if now else ""
                raise NetworkError(f"No luck {what}: {trouble}.{asked}{kept} Run again later.") from None
            log.info("%s: %s; again in %.0f s", what, trouble, wait)
            time.sleep(wait)


def refuse(status: int, place: str, retry_after: str | None = None) -> None:
    """Turn an HTTP status into the error it means; do nothing for a success.

    Raises:
        PassingError: it may pass.
        AccessError: 401 and 403.
        DataError: any other refusal.
    """
    if status in _PASSING or status >= 500:
        raise PassingError(f"status {status}", wait=_seconds(retry_after))
    if status in (401, 403):
        raise AccessError(f"{place} must be readable for you. Received: status {status}. Check the address and access.")
    if status >= 300:
        raise DataError(f"{place} must be a file. Received: status {status}. Choose another source, or report this.")


def shown(address: str) -> str:
    """An address as it may be shown: without user, query and fragment."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _continue(address: str, target: Path, file: IO[bytes], size: int | None, patience: Patience) -> None:
    """One try: ask for what is missing and append it."""
    known = _read_identity(target)
    start = file.seek(0, 2) if known.validator else 0
    if start and start == known.total:
        return
    headers = {"Accept-Encoding": "identity"}
    if start and known.validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.validator}
    with _answer(address, headers, patience) as response:
        start = _agreed_start(response, start, known, file)
        total = _announced(response, start)
        if size is not None and total is not None and total != size:
            raise DataError(
                f"{shown(address)} must be a file of {size:,} bytes. Received: {total:,} announced. "
                "Choose another source, or report this."
            )
        file.truncate(start)
        file.seek(start)
        _write_identity(target, _Identity(_validator(response), total))
        _append(response, file, total, target.name)
    if total is not None and file.tell() != total:
        raise PassingError(f"cut after {file.tell():,} of {total:,} bytes")


@contextmanager
def _answer(address: str, headers: dict[str, str], patience: Patience) -> Iterator[requests.Response]:
    """Ask, and refuse answers that are no file; what breaks while the block reads is `PassingError` too."""
    place = shown(address)
    try:
        with requests.get(
            address, headers=headers, stream=True, timeout=(patience.connect, patience.silence)
        ) as response:
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                refuse(response.status_code, place, response.headers.get("Retry-After"))
            if response.headers.get("Content-Type", "").lower().startswith("text/html"):
                raise DataError(
                    f"{place} must be a file. Received: a web page. "
                    "Sign in to the network if it asks for it, or choose another source."
                )
            yield response
    except requests.TooManyRedirects:
        raise DataError(
            f"{place} must lead to a file. Received: redirects without end. Choose another source, or report this."
        ) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise DataError(f"An address must be one of HTTP. Received: {place!r}.") from None
    except requests.Timeout:
        raise PassingError(f"no byte for {patience.silence:.0f} s") from None
    except requests.RequestException as error:  # its text may hold the query
        raise PassingError(f"the connection failed ({type(error).__name__})") from None


def _agreed_start(response: requests.Response, start: int, known: _Identity, file: IO[bytes]) -> int:
    """From which byte on the answer has the file: where it was cut, or 0."""
    if response.status_code == requests.codes.ok:
        return 0
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match and int(match["start"]) == start and known.total in (None, int(match["total"])):
        return start
    file.truncate(0)
    raise PassingError("the file has changed since it was cut")


def _announced(response: requests.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _append(response: requests.Response, file: IO[bytes], total: int | None, name: str) -> None:
    start = file.tell()
    with progress.bar(total=total, description=f"fetching {name}", unit="B", initial=start) as bar:
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _verify(address: str, target: Path, file: IO[bytes], checksum: Checksum | None) -> None:
    file.flush()
    partial = _beside(target, "part")
    if checksum is None or (received := _digest(partial, checksum.algorithm)) == checksum.digest:
        return
    file.truncate(0)
    raise DataError(
        f"{shown(address)} must have the {checksum.algorithm} {checksum.digest}. Received: {received}. "
        "Choose another source, or report this."
    )


@contextmanager
def _alone(partial: Path) -> Iterator[IO[bytes]]:
    """Open the partial file for this process alone."""
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = partial.stat().st_ino == os.fstat(file.fileno()).st_ino  # else it was done and moved meanwhile
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise BusyError(f"Another run is fetching {partial.stem}. Run again when it is done.")
        yield file


def _mark(target: Path, sha256: str) -> None:
    outputs.write_text(_beside(target, "sha256"), f"{sha256}\n")


def _validator(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _read_identity(target: Path) -> _Identity:
    try:
        values: dict[str, Any] = json.loads(_beside(target, "identity").read_text(encoding="utf-8"))
        return _Identity(values["validator"], values["total"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _Identity(None, None)


def _write_identity(target: Path, identity: _Identity) -> None:
    outputs.write_json(_beside(target, "identity"), identity._asdict())


def _seconds(retry_after: str | None) -> float | None:
    """The seconds a Retry-After header asks to wait: it holds a number or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")
