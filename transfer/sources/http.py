"""Transport: a file brought over HTTP whole, resumed when it was cut, or not at all."""

import email.utils
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3

from transfer.runtime import disk, files, progress
from transfer.runtime.errors import AccessError, DataError, LockedError, NetworkError

log = logging.getLogger(__name__)
_CHUNK = 1 << 16
_GOOD_MANY = 1 << 20  # bytes
_HOPS = 10  # redirects
_PASSING = frozenset({408, 425, 429})  # and all of 500 to 599
_EXPIRED = frozenset({400, 401, 403})  # of a signature: Google's storage answers 400, Amazon's 403
_NUMBER = re.compile(r"[0-9]{1,15}")  # what a server sends may be no number, or one of a thousand digits
_RANGE = re.compile(rf"bytes (?P<start>{_NUMBER.pattern})-{_NUMBER.pattern}/(?P<total>{_NUMBER.pattern})")
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_DATE = re.compile(r"[ -~]+")
_SHUT = re.compile(r"Tunnel connection failed: (?P<status>403|407)")  # the words of http.client

T = TypeVar("T")


class Checksum(NamedTuple):
    """What a file's bytes must add up to: hashlib's name of the algorithm, and the hexadecimal digest."""

    algorithm: str
    digest: str


class RetryPolicy(NamedTuple):
    """How much trouble to put up with: tries in a row that bring nothing, seconds, and bytes."""

    tries: int = 6
    first_wait: float = 1.0  # doubled with each try
    longest_wait: float = 120.0  # also of what a server asks for
    connect: float = 20.0
    silence: float = 60.0  # without a byte
    slowest: int = 1 << 10  # bytes a second, for as long as a silence may last
    largest: int = 4 << 30  # bytes of a file whose size is not known


class TransientError(Exception):
    """A passing failure of one try; the text is the reason."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        """Args: reason, in words; wait, the seconds the server asks for."""
        super().__init__(reason)
        self.wait = wait


class _Wanted(NamedTuple):
    """What is fetched, and on what terms."""

    address: str
    target: Path
    size: int | None  # bytes
    patience: RetryPolicy
    signed: bool

    @property
    def place(self) -> str:
        """The address as it may be shown."""
        return redact_url(self.address)


class _Identity(NamedTuple):
    """What tells that a server still has the file that a partial one was cut from."""

    validator: str | None = None  # a strong ETag or a date
    total: int | None = None  # bytes


class _Span(NamedTuple):
    """The part of a file that an answer brings: from which byte on, and how many bytes the whole file has."""

    start: int
    total: int | None


def download(
    address: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    size: int | None = None,
    patience: RetryPolicy | None = None,
    signed: bool = False,
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
        signed: whether the address holds a signature, and thus lives for minutes: refused, it has expired.

    Raises:
        NetworkError: the connection stayed cut, silent or refused, the server stayed in trouble, or the address has
            expired.
        BusyError: another process is fetching the same file.
        AccessError: the server wants an account, or a proxy on the way.
        DataError: the server has no such file or another one than expected, or nothing leads to it safely.
        DiskError: the disk has no room for it, or refuses.
    """
    if is_complete(target, checksum):
        return
    logging.getLogger(urllib3.__name__).setLevel(logging.ERROR)  # its warnings show whole addresses
    wanted = _Wanted(address, target, size, patience or RetryPolicy(), signed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(_beside(target, "part")) as file:
        if is_complete(target, checksum):  # another run has brought it meanwhile
            _beside(target, "part").unlink()
            return
        discard(target)
        _complete(wanted, file, checksum)
        _mark(target, files.sha256(_beside(target, "part")))
        files.commit(_beside(target, "part"), target)
    _beside(target, "identity").unlink(missing_ok=True)


def is_complete(target: Path, checksum: Checksum | None = None) -> bool:
    """Whether a file is there with the checksum given, or with the one that was kept beside it."""
    kept = _beside(target, "sha256")
    if not target.exists() or not (checksum or kept.exists()):
        return False
    expected = checksum or Checksum("sha256", kept.read_text(encoding="ascii", errors="replace").strip())
    return files.digest(target, expected.algorithm) == expected.digest


def mark_complete(target: Path) -> None:
    """Keep a file's checksum beside it, for `is_whole`."""
    _mark(target, files.sha256(target))


def discard(target: Path) -> None:
    """Remove a fetched file and its checksum."""
    target.unlink(missing_ok=True)
    _beside(target, "sha256").unlink(missing_ok=True)


def retry(attempt: Callable[[], T], *, patience: RetryPolicy, what: str, gained: Callable[[], int] = lambda: 0) -> T:
    """Try until it works, waiting longer each time, and at least as long as the server asks.

    Args:
        attempt: raises `PassingError` for what may pass.
        patience: how often and how long.
        what: what is tried, for the messages.
        gained: how many bytes there are; a try that brought a good many more than there ever were is not counted
            against `patience`.

    Raises:
        NetworkError: it did not work.
    """
    failures, most = 0, gained()
    while True:
        try:
            return attempt()
        except TransientError as trouble:
            now = gained()
            failures = 1 if now >= most + _GOOD_MANY else failures + 1
            most = max(most, now)
            wait = max(patience.first_wait * 2 ** (failures - 1), trouble.wait or 0.0)
            if failures >= patience.tries or wait > patience.longest_wait:
                asked = f" The server asks to wait {trouble.wait:.0f} s." if trouble.wait else ""
                kept = " What arrived is kept." if now else ""
                raise NetworkError(f"No luck {what}: {trouble}.{asked}{kept} Run again later.") from None
            log.info("%s: %s; again in %.0f s", what, trouble, wait)
            time.sleep(wait)


def raise_for_status(status: int, place: str, retry_after: str | None = None) -> None:
    """Raise the error that a status means which is not the one hoped for.

    Raises:
        PassingError: it may pass.
        AccessError: 401, 403 and 407.
        DataError: any other.
    """
    if status in _PASSING or status >= 500:
        raise TransientError(f"status {status}", wait=_seconds(retry_after))
    if status in (401, 403):
        raise AccessError(f"{place} must be readable for you. Received: status {status}. Check the address and access.")
    if status == requests.codes.proxy_authentication_required:
        raise _shut_out(status, place)
    raise DataError(f"{place} must be a file. Received: status {status}. Choose another source, or report this.")


def translate_error(error: Exception, place: str, patience: RetryPolicy) -> Exception:
    """What a failure on the way to a server means; its own words may hold the query of an address, or a password.

    Args:
        error: what requests or urllib3 raised.
        place: where the server is, as it may be shown.
        patience: the limits that the request had.

    Returns:
        `PassingError`, `AccessError` or `DataError`; the error itself, if it is none of the network's.
    """
    found: Exception = TransientError(f"the connection failed ({type(error).__name__})")
    match error:
        case (
            requests.exceptions.InvalidURL()
            | requests.exceptions.InvalidSchema()
            | requests.exceptions.MissingSchema()
            | urllib3.exceptions.LocationParseError()
        ):
            found = DataError(
                "The address of a file, and a proxy's in http_proxy, https_proxy or all_proxy, must be one of HTTP. "
                f"Received: another, for {place}."
            )
        case requests.ConnectTimeout():
            found = TransientError(f"no connection for {patience.connect:.0f} s")
        case requests.Timeout() | urllib3.exceptions.ReadTimeoutError():
            found = TransientError(f"no byte for {patience.silence:.0f} s")
        case requests.exceptions.ProxyError():
            shut = _SHUT.search(str(error))
            failed = TransientError("the proxy that https_proxy or http_proxy names failed")
            found = _shut_out(int(shut["status"]), place) if shut else failed
        case requests.exceptions.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            found = DataError(
                f"{place} must show a certificate that is trusted here. Received: another. Look at the clock, sign in "
                "to the network, or have REQUESTS_CA_BUNDLE name the certificates that its proxy shows."
            )
        case urllib3.exceptions.ProtocolError():
            found = TransientError("the connection was cut")
        case requests.RequestException() | urllib3.exceptions.HTTPError() | ConnectionError() | TimeoutError():
            pass
        case OSError() if "TLS CA certificate bundle" in str(error):
            found = DataError("REQUESTS_CA_BUNDLE must name a file of certificates. Received: a path to none.")
        case _:
            found = error
    return found


def redact_url(address: str) -> str:
    """An address as it may be shown: without user, query and fragment."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _complete(wanted: _Wanted, file: IO[bytes], checksum: Checksum | None) -> None:
    """Bring what is missing, and all of it where what an earlier run left does not add up with it."""
    left = file.seek(0, 2)
    retry(
        lambda: _continue(wanted, file),
        patience=wanted.patience,
        what=f"fetching {wanted.place}",
        gained=lambda: file.seek(0, 2),
    )
    try:
        _verify(wanted, file, checksum)
    except DataError:
        if not left:
            raise
        log.info("what an earlier run left of %s was damaged; fetching it anew", wanted.target.name)
        _complete(wanted, file, checksum)


def _continue(wanted: _Wanted, file: IO[bytes]) -> None:
    """One try: ask for what is missing and append it."""
    known = _read_identity(wanted.target)
    start = file.seek(0, 2) if known.validator else 0
    if start and start == known.total:
        return
    headers = {"Accept-Encoding": "identity"}
    if start and known.validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": known.validator}
    with _arrived_at(wanted, headers) as response:
        _check(response, wanted, in_part="Range" in headers)
        span = _agreed(response, start, known, file)
        total = _size(wanted, span.total)
        file.truncate(span.start)
        file.seek(span.start)
        with disk.space_for({wanted.target.parent: total - span.start if total else 0}):
            # which an answer in part may leave out (RFC 9110, section 15.3.7)
            validator = _validator(response) or (known.validator if span.start else None)
            _write_identity(wanted.target, _Identity(validator, total))
            _append(response, file, total, wanted)
    if file.tell() < (total or 0):
        raise TransientError(f"cut after {file.tell():,} of {total:,} bytes")


def _check(response: requests.Response, wanted: _Wanted, *, in_part: bool) -> None:
    """Refuse an answer that brings no file, or no part of one where it may."""
    codes = requests.codes
    accepted = {codes.ok, *([codes.partial_content, codes.requested_range_not_satisfiable] if in_part else [])}
    if wanted.signed and response.status_code in _EXPIRED:
        raise NetworkError(f"The address of {wanted.place} has expired. What arrived is kept. Run again.")
    if response.status_code not in accepted:
        raise_for_status(response.status_code, wanted.place, response.headers.get("Retry-After"))
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise DataError(
            f"{wanted.place} must be a file. Received: a web page. "
            "Sign in to the network if it asks for it, or choose another source."
        )
    if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        raise DataError(
            f"{wanted.place} must come as it is. Received: a compressed form, though none was asked for. "
            "Try without the proxy, if there is one, or choose another source."
        )


def _arrived_at(wanted: _Wanted, headers: dict[str, str]) -> requests.Response:
    """The answer at the end of redirects."""
    address = wanted.address
    for _ in range(_HOPS + 1):
        with _explained(wanted), _Session() as session:
            timeout = wanted.patience.connect, wanted.patience.silence
            response = _in_time(
                partial(session.get, address, headers=headers, stream=True, timeout=timeout), 2 * sum(timeout)
            )
        if not response.is_redirect:
            return response
        response.close()
        address = _onward(wanted, address, response.headers["Location"])
    raise DataError(
        f"{wanted.place} must lead to a file. Received: redirects without end. Choose another source, or report this."
    )


class _Session(requests.Session):
    """A session that follows no redirects: requests follows them to anywhere, and reads their bodies to any length."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


def _onward(wanted: _Wanted, address: str, location: str) -> str:
    """Where a redirect leads: by HTTPS, or from plain HTTP by HTTP."""
    try:
        onward = urljoin(address, location.encode("latin-1").decode("utf-8"))
        scheme = urlsplit(onward).scheme
    except ValueError:
        onward, scheme = "", "no address"
    if scheme == "https" or scheme == urlsplit(address).scheme == "http":
        return onward
    raise DataError(
        f"{wanted.place} must lead on by HTTPS, or from plain HTTP by HTTP. Received: a redirect to {scheme[:20]}. "
        "Choose another source, or report this."
    )


def _in_time(call: Callable[[], T], seconds: float, *, give_up: Callable[[], None] = lambda: None) -> T:
    """What a call brings, if it does in time: a byte of a header now and then keeps a socket's own limit away for ever.

    Args:
        call: what is done in a thread of its own.
        seconds: how long it may take.
        give_up: has a call that took longer let go of what others need, such as the response that it reads.

    Raises:
        PassingError: it has not come back; it is left behind.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():
            raise
        give_up()
        raise TransientError(f"no whole answer for {seconds:.0f} s") from None


@contextmanager
def _explained(wanted: _Wanted) -> Iterator[None]:
    """Have what fails between here and a server end as the error it means; its own words may hold the query."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, OSError) as error:  # all of requests' are of the second kind
        raise translate_error(error, wanted.place, wanted.patience) from None


def _shut_out(status: int, place: str) -> AccessError:
    return AccessError(
        f"The proxy must let you through to {place}. Received: status {status}. "
        "Give name and password in http_proxy and https_proxy (http://NAME:PASSWORD@HOST:PORT), or ask who runs it."
    )


def _agreed(response: requests.Response, start: int, known: _Identity, file: IO[bytes]) -> _Span:
    """What an answer brings: the file from where it was cut, or all of it."""
    if response.status_code == requests.codes.ok:
        length = response.headers.get("Content-Length", "")
        return _Span(0, None if _is_chunked(response) else _number(length))  # where there are chunks no length counts
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match and _validator(response) in (None, known.validator):
        span = _Span(int(match["start"]), int(match["total"]))
        if span.start == start and known.total in (None, span.total):
            return span
    file.truncate(0)
    raise TransientError("the file has changed since it was cut")


def _is_chunked(response: requests.Response) -> bool:
    return "Transfer-Encoding" in response.headers


def _size(wanted: _Wanted, announced: int | None) -> int | None:
    """How many bytes a file will have: those that are known, or those announced if they can be."""
    if wanted.size is None and announced is not None and announced > wanted.patience.largest:
        raise DataError(
            f"{wanted.place} must be a file of at most {wanted.patience.largest:,} bytes. Received: {announced:,} "
            "announced. Choose another source, or report this."
        )
    if wanted.size is not None and announced not in (None, wanted.size):
        raise DataError(
            f"{wanted.place} must be a file of {wanted.size:,} bytes. Received: {announced:,} announced. "
            "Choose another source, or report this."
        )
    return wanted.size if announced is None else announced


def _append(response: requests.Response, file: IO[bytes], total: int | None, wanted: _Wanted) -> None:
    start = file.tell()
    most = wanted.patience.largest if total is None else total
    with progress.bar(total=total, description=f"fetching {wanted.target.name}", unit="B", initial=start) as bar:
        for data in _arriving(response, wanted):
            if file.tell() + len(data) > most:
                file.truncate(0)
                raise DataError(
                    f"{wanted.place} must be a file of {'at most ' if total is None else ''}{most:,} bytes. "
                    "Received: more. Choose another source, or report this."
                )
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            bar.update(len(data))


def _arriving(response: requests.Response, wanted: _Wanted) -> Iterator[bytes]:
    """What arrives, as soon as it does, and not slower than patience has it."""
    since, arrived = time.monotonic(), 0
    limit = 2 * wanted.patience.silence
    read = partial(response.raw.read1, _CHUNK, decode_content=False)
    while True:
        with _explained(wanted):
            # only chunks have lines that keep a socket awake: a thread a read costs more than half the rate
            data = _in_time(read, limit, give_up=response.raw.shutdown) if _is_chunked(response) else read()
        if not data:
            return
        yield data
        arrived += len(data)
        passed = time.monotonic() - since
        if passed >= wanted.patience.silence:
            if arrived < wanted.patience.slowest * passed:
                raise TransientError(f"only {arrived:,} bytes in {passed:.0f} s")
            since, arrived = time.monotonic(), 0


def _verify(wanted: _Wanted, file: IO[bytes], checksum: Checksum | None) -> None:
    part = _beside(wanted.target, "part")
    if checksum is None or (received := files.digest(part, checksum.algorithm)) == checksum.digest:
        return
    file.truncate(0)
    raise DataError(
        f"{wanted.place} must have the {checksum.algorithm} {checksum.digest}. Received: {received}. "
        "Choose another source, or report this."
    )


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """Open the partial file for this process alone."""
    with part.open("ab", buffering=0) as file:  # nothing is left in memory that a full disk refuses at the end
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = part.stat().st_ino == os.fstat(file.fileno()).st_ino  # else it was done and moved meanwhile
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise LockedError(f"Another run is fetching {part.stem}. Run again when it is done.")
        yield file


def _mark(target: Path, sha256: str) -> None:
    files.write_text(_beside(target, "sha256"), f"{sha256}\n")


def _validator(response: requests.Response) -> str | None:
    """What a server knows its file by; it is sent back, so it must be of the form that can be."""
    etag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    return etag if _STRONG_ETAG.fullmatch(etag) else date if _DATE.fullmatch(date) else None


def _read_identity(target: Path) -> _Identity:
    try:
        values: dict[str, Any] = json.loads(_beside(target, "identity").read_text(encoding="utf-8"))
        return _Identity(values["validator"], values["total"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _Identity()


def _write_identity(target: Path, identity: _Identity) -> None:
    files.write_json(_beside(target, "identity"), identity._asdict())


def _seconds(retry_after: str | None) -> float | None:
    """The seconds a Retry-After header asks to wait: it holds a number or a date."""
    if retry_after is None:
        return None
    if (number := _number(retry_after)) is not None:
        return float(number)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text.strip()) else None


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")
