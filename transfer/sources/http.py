"""HTTP: download a file completely or not at all, and resume a partial download."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import requests
from requests import codes

from transfer.runtime import disk, files, locks, progress
from transfer.runtime.errors import DataError, NetworkError
from transfer.sources.http_errors import TransientError, check_status, redact_url
from transfer.sources.session import RetryPolicy, get, retry

_EXPIRED = frozenset({400, 401, 403})  # the status for an expired signature: 400 at Google's storage, 403 at Amazon's
_RANGE = re.compile(r"bytes (?P<start>[0-9]{1,15})-[0-9]{1,15}/(?P<total>[0-9]{1,15})")
_VALIDATOR = re.compile(r'"[!#-~]*"|[A-Z][a-z]{2}[ -~]+')  # a strong ETag, or a date


class Checksum(NamedTuple):
    """The digest that a file must have: the algorithm by its name in hashlib, and hexadecimal digits."""

    algorithm: str
    digest: str


class _Request(NamedTuple):
    url: str
    place: str  # the URL without secrets
    target: Path
    checksum: Checksum | None
    size: int | None  # bytes
    policy: RetryPolicy
    signed: bool


class _Version(NamedTuple):
    """The file on the server that a partial file belongs to: its strong ETag or date, and its bytes."""

    validator: str | None = None
    total: int | None = None


def download(
    url: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    size: int | None = None,
    policy: RetryPolicy | None = None,
    signed: bool = False,
) -> None:
    """Download a file unless it is complete already; the bytes of a partial download are not requested again.

    Args:
        url: an HTTP or HTTPS URL; its query is never shown, as it may hold a signature.
        target: a path in a folder for downloads alone.
        checksum: of the file, if it is known.
        size: of the file in bytes, if it is known.
        policy: retries, timeouts and limits.
        signed: whether the URL holds a signature, which expires.

    Raises:
        NetworkError: the server did not deliver the file after all retries, or the URL has expired.
        LockedError: another process downloads the same file.
        AccessError: the server or a proxy requires credentials.
        DataError: the server has no such file or another one, or the connection is not secure.
        DiskError: the disk has too little space, or fails.
    """
    if is_complete(target, checksum):
        return
    request = _Request(url, redact_url(url), target, checksum, size, policy or RetryPolicy(), signed)
    part, busy = _sidecar(target, "part"), f"Another process downloads {target.name}. Run again when it has ended."
    with locks.exclusive(_sidecar(target, "lock"), busy=busy):
        if is_complete(target, checksum):
            return  # another process completed it in the meantime
        discard(target)
        part.touch()
        task, received = f"downloading {request.place}", lambda: part.stat().st_size
        retry(partial(_attempt, request, part), policy=request.policy, task=task, received=received)
        mark_complete(target, content=part)
        files.commit(part, target)
        _sidecar(target, "identity").unlink(missing_ok=True)


def is_complete(target: Path, checksum: Checksum | None = None) -> bool:
    """Return whether a file has the given checksum, or without one the SHA-256 recorded when it was complete."""
    recorded = _sidecar(target, "sha256")
    if not target.exists() or not (checksum or recorded.exists()):
        return False
    expected = checksum or Checksum("sha256", recorded.read_text(encoding="ascii", errors="replace").strip())
    return files.digest(target, expected.algorithm) == expected.digest


def mark_complete(target: Path, *, content: Path | None = None) -> None:
    """Record the SHA-256 of a complete file next to it; `content` is the file before it is moved to `target`."""
    files.write_text(_sidecar(target, "sha256"), f"{files.sha256(content or target)}\n")


def discard(target: Path) -> None:
    """Remove a file and its recorded SHA-256."""
    target.unlink(missing_ok=True)
    _sidecar(target, "sha256").unlink(missing_ok=True)


def _attempt(request: _Request, part: Path) -> None:
    """Request the missing bytes once, append them to the partial file, and compare its checksum."""
    # unbuffered: a full disk is noticed at the write that fails, and the bytes before it can be resumed
    with part.open("ab", buffering=0) as file:
        known = _read_version(request.target)
        start = file.tell() if known.validator else 0
        if not start or start != known.total:
            _fetch(request, file, start, known)
        digest = files.digest(part, request.checksum.algorithm) if request.checksum else None
        if not request.checksum or digest == request.checksum.digest:
            return
        file.truncate(0)
    if start:
        raise TransientError("the partial file was damaged")
    raise DataError(f"{request.place} must have the {' '.join(request.checksum)}. Received: {digest}. Report this.")


def _fetch(request: _Request, file: IO[bytes], start: int, known: _Version) -> None:
    headers = {"Range": f"bytes={start}-", "If-Range": known.validator or ""} if start else {}
    with get(request.url, headers, request.policy) as (response, chunks):
        _check_response(response, request, ranged=start > 0)
        start, version = _extent(response, request, start, known)
        file.truncate(start)
        with disk.space_for({request.target.parent: (version.total or start) - start}):
            files.write_json(_sidecar(request.target, "identity"), version._asdict())
            _append(chunks, file, version.total, request)


def _check_response(response: requests.Response, request: _Request, *, ranged: bool) -> None:
    accepted = {codes.ok, codes.partial_content, codes.requested_range_not_satisfiable} if ranged else {codes.ok}
    if request.signed and response.status_code in _EXPIRED:
        raise NetworkError(f"The URL {request.place} has expired. A partial file is kept. Run again.")
    if response.status_code not in accepted:
        check_status(response.status_code, request.place, response.headers.get("Retry-After"))
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise DataError(f"{request.place} must be a file. Received: a web page. Sign in to the network first.")


def _extent(response: requests.Response, request: _Request, start: int, known: _Version) -> tuple[int, _Version]:
    """Return where the body belongs in the file, and the version of the file."""
    headers = response.headers
    validator = next(filter(_VALIDATOR.fullmatch, (headers.get("ETag", ""), headers.get("Last-Modified", ""))), None)
    if response.status_code == codes.ok:
        start, total = 0, response.raw.length_remaining
    else:
        span = _RANGE.fullmatch(headers.get("Content-Range", ""))
        total = int(span["total"]) if span and int(span["start"]) == start else None
        # a partial response may omit the validator (RFC 9110, section 15.3.7)
        if total is None or known.total not in (None, total) or validator not in (None, known.validator):
            _sidecar(request.target, "identity").unlink()  # so that the next attempt requests all bytes
            raise TransientError("the file on the server has changed")
        validator = known.validator
    if total is not None and (total != request.size if request.size else total > request.policy.max_bytes):
        raise _wrong_size(request, f"{total:,} announced")
    return start, _Version(validator, request.size if total is None else total)


def _append(chunks: Iterator[bytes], file: IO[bytes], total: int | None, request: _Request) -> None:
    start, limit = file.tell(), request.policy.max_bytes if total is None else total
    with progress.bar(total=total, description=f"downloading {request.target.name}", unit="B", initial=start) as bar:
        for chunk in chunks:
            if file.tell() + len(chunk) > limit:
                file.truncate(0)
                raise _wrong_size(request, "more")
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
            bar.update(len(chunk))
    if file.tell() < (total or 0):
        raise TransientError(f"cut after {file.tell():,} of {total:,} bytes")


def _wrong_size(request: _Request, received: str) -> DataError:
    expected = f"{request.size:,}" if request.size else f"at most {request.policy.max_bytes:,}"
    return DataError(f"{request.place} must be a file of {expected} bytes. Received: {received}. Report this.")


def _read_version(target: Path) -> _Version:
    try:
        return _Version(**json.loads(_sidecar(target, "identity").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return _Version()


def _sidecar(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}.{suffix}")
